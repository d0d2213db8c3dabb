/*
 * COLO: copies of pages that the stopped PVM had dirtied
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/madvise.h"
#include "kept.h"
#include "peak.h"
#include "stage.h"

/* Pages of a block that follow each other, all zero or none. */
typedef struct KeptRun {
    unsigned block;
    bool zero;
    uint64_t first;
    uint64_t count;
} KeptRun;

struct ColoKept {
    size_t page_size;
    uint64_t capacity;          /* pages */
    uint64_t used;              /* pages */
    uint8_t *data;              /* of the pages with content, in order */
    GArray *runs;               /* of KeptRun */
    ColoPeak peak;              /* of @data */
};

ColoKept *colo_kept_new(size_t page_size, uint64_t pages, Error **errp)
{
    g_autoptr(ColoKept) k = g_new0(ColoKept, 1);

    k->page_size = page_size;
    k->capacity = pages;
    k->runs = g_array_new(false, false, sizeof(KeptRun));
    k->data = colo_map_sparse(pages * page_size);
    if (!k->data) {
        error_setg_errno(errp, errno, "no address space for copies of "
                         "%" PRIu64 " pages", pages);
        return NULL;
    }
    return g_steal_pointer(&k);
}

void colo_kept_free(ColoKept *k)
{
    if (!k) {
        return;
    }
    if (k->data) {
        munmap(k->data, k->capacity * k->page_size);
    }
    g_array_unref(k->runs);
    g_free(k);
}

uint64_t colo_kept_room(const ColoKept *k)
{
    return k->capacity - k->used;
}

static void extend_runs(ColoKept *k, unsigned block, uint64_t page, bool zero)
{
    KeptRun *last = k->runs->len ?
                    &g_array_index(k->runs, KeptRun, k->runs->len - 1) : NULL;

    if (last && last->block == block && last->zero == zero &&
        last->first + last->count == page) {
        last->count++;
    } else {
        KeptRun run = {
            .block = block,
            .zero = zero,
            .first = page,
            .count = 1,
        };

        g_array_append_val(k->runs, run);
    }
}

void colo_kept_add(ColoKept *k, unsigned block, uint64_t page,
                   const void *data)
{
    if (data) {
        assert(k->used < k->capacity);
        memcpy(k->data + k->used++ * k->page_size, data, k->page_size);
    }
    extend_runs(k, block, page, !data);
}

bool colo_kept_foreach(const ColoKept *k, ColoKeptFunc *func, void *opaque,
                       Error **errp)
{
    uint8_t *data = k->data;

    for (unsigned i = 0; i < k->runs->len; i++) {
        const KeptRun *run = &g_array_index(k->runs, KeptRun, i);

        for (uint64_t n = 0; n < run->count; n++) {
            if (!func(opaque, run->block, run->first + n,
                      run->zero ? NULL : data, errp)) {
                return false;
            }
            data += run->zero ? 0 : k->page_size;
        }
    }
    return true;
}

void colo_kept_clear(ColoKept *k)
{
    colo_peak_need(&k->peak, k->used);
    k->used = 0;
    g_array_set_size(k->runs, 0);
}

/* For the pages from @first to before @end, which may share the host's. */
static void advise(ColoKept *k, uint64_t first, uint64_t end, int advice)
{
    size_t begin = ROUND_UP(first * k->page_size, qemu_real_host_page_size());

    if (begin < end * k->page_size) {
        qemu_madvise(k->data + begin, end * k->page_size - begin, advice);
    }
}

void colo_kept_reserve(ColoKept *k, uint64_t pages)
{
    uint64_t before = k->peak.populated;

    colo_peak_need(&k->peak, MIN(pages, k->capacity));
    advise(k, before, k->peak.populated, QEMU_MADV_POPULATE_WRITE);
}

void colo_kept_trim(ColoKept *k)
{
    uint64_t first, end;

    if (colo_peak_done(&k->peak, &first, &end)) {
        advise(k, first, end, QEMU_MADV_DONTNEED);
    }
}
