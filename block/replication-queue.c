/*
 * Block replication: writes the guest believes done, that are forwarded later
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "block/replication-queue.h"
#include "qemu/memalign.h"
#include "qemu/units.h"

/*
 * Data of so many bytes gets memory of its own, which the host has back as soon
 * as it is freed: an allocator keeps what a burst of writes needed.
 */
#define OWN_MEMORY (64 * KiB)

static void *data_new(size_t bytes)
{
    size_t page_size = qemu_real_host_page_size();

    return bytes < OWN_MEMORY ?
           qemu_try_memalign(page_size, bytes) :
           qemu_anon_ram_alloc(ROUND_UP(bytes, page_size), NULL, false, false);
}

static void data_free(void *data, size_t bytes)
{
    if (bytes < OWN_MEMORY) {
        qemu_vfree(data);
    } else {
        qemu_anon_ram_free(data, ROUND_UP(bytes, qemu_real_host_page_size()));
    }
}

ReplWrite *repl_write_new(ReplWriteKind kind, int64_t offset, int64_t bytes,
                          BdrvRequestFlags flags, QEMUIOVector *qiov)
{
    g_autoptr(ReplWrite) w = g_new0(ReplWrite, 1);

    w->kind = kind;
    w->flags = flags;
    w->offset = offset;
    w->bytes = bytes;
    if (kind == REPL_WRITE_DATA) {
        w->data = data_new(bytes);
        if (!w->data) {
            return NULL;
        }
        qemu_iovec_to_buf(qiov, 0, w->data, bytes);
    }
    return g_steal_pointer(&w);
}

void repl_write_free(ReplWrite *w)
{
    if (w) {
        data_free(w->data, w->bytes);
        g_free(w);
    }
}

static size_t memory_of(const ReplWrite *w)
{
    return sizeof(*w) + (w->data ? w->bytes : 0);
}

void repl_queue_init(ReplQueue *q)
{
    QSIMPLEQ_INIT(&q->list);
    q->memory = 0;
}

void repl_queue_push(ReplQueue *q, ReplWrite *w)
{
    QSIMPLEQ_INSERT_TAIL(&q->list, w, next);
    q->memory += memory_of(w);
}

bool repl_queue_empty(const ReplQueue *q)
{
    return QSIMPLEQ_EMPTY(&q->list);
}

static ReplWrite *pop(ReplQueue *q)
{
    ReplWrite *w = QSIMPLEQ_FIRST(&q->list);

    QSIMPLEQ_REMOVE_HEAD(&q->list, next);
    return w;
}

static void drop(ReplQueue *q, ReplWrite *w)
{
    q->memory -= memory_of(w);
    repl_write_free(w);
}

static bool touches(const ReplWrite *w, ReplWrite *const *batch, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (w->offset < batch[i]->offset + batch[i]->bytes &&
            batch[i]->offset < w->offset + w->bytes) {
            return true;
        }
    }
    return false;
}

size_t repl_queue_take(ReplQueue *q, ReplWrite **batch, size_t max)
{
    size_t n = 0;

    while (n < max && !repl_queue_empty(q) &&
           !touches(QSIMPLEQ_FIRST(&q->list), batch, n)) {
        batch[n++] = pop(q);
    }
    return n;
}

void repl_queue_done(ReplQueue *q, ReplWrite **batch, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        drop(q, batch[i]);
    }
}

void repl_queue_clear(ReplQueue *q)
{
    while (!repl_queue_empty(q)) {
        drop(q, pop(q));
    }
}
