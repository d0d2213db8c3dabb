/*
 * COLO: what a checkpoint takes from the PVM's memory
 *
 * The dirty bitmaps are those of the migration (RAMBlock::bmap), whose dirty
 * log goes on through COLO. Pages are read from the stopped VM's memory as
 * they are sent.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bitmap.h"
#include "qemu/cutils.h"
#include "qemu/main-loop.h"
#include "qemu/rcu.h"
#include "exec/ramblock.h"
#include "exec/ram_addr.h"
#include "exec/target_page.h"
#include "exec/memory.h"
#include "../migration.h"
#include "../migration-stats.h"
#include "../multifd.h"
#include "../options.h"
#include "../ram.h"
#include "capture.h"
#include "crc.h"

/*
 * Pages in a message: enough to make its cost small, and few enough to be in
 * the cache still when they are sent after their checksum was taken.
 */
#define BATCH_PAGES 128

ColoRamList *colo_capture_ramlist(Error **errp)
{
    g_autoptr(ColoRamList) list = colo_ramlist_new(TARGET_PAGE_SIZE, errp);
    RAMBlock *rb;

    if (!list) {
        return NULL;
    }
    RCU_READ_LOCK_GUARD();
    RAMBLOCK_FOREACH_MIGRATABLE(rb) {
        if (!colo_ramlist_add(list, rb->idstr, rb->used_length, errp)) {
            return NULL;
        }
    }
    return g_steal_pointer(&list);
}

void colo_capture_start(void)
{
    RAMBlock *rb;

    RCU_READ_LOCK_GUARD();
    RAMBLOCK_FOREACH_MIGRATABLE(rb) {
        /*
         * Migration puts off clearing the log of a chunk until it sends it.
         * Whatever it did not come to is cleared here, and from now on at
         * each sync.
         */
        g_clear_pointer(&rb->clear_bmap, g_free);
        memory_region_clear_dirty_bitmap(rb->mr, 0, rb->used_length);
    }
}

uint64_t colo_capture_sync(bool stopped)
{
    uint64_t dirty = 0;
    RAMBlock *rb;

    memory_global_dirty_log_sync(stopped);
    RCU_READ_LOCK_GUARD();
    RAMBLOCK_FOREACH_MIGRATABLE(rb) {
        cpu_physical_memory_sync_dirty_bitmap(rb, 0, rb->used_length);
        dirty += bitmap_count_one(rb->bmap,
                                  rb->used_length >> TARGET_PAGE_BITS);
    }
    return dirty;
}

/* One PAGES message in the making. */
typedef struct Batch {
    ColoMsg msg;
    struct iovec *iov;
    size_t niov;
    uint64_t pages;         /* with data */
    uint8_t *copy;          /* room for their data, if the VM runs */
} Batch;

/*
 * What a running VM writes between the checksum and the sending would make
 * the one wrong.
 */
static void *batch_data(Batch *b, RAMBlock *rb, uint64_t page)
{
    void *data = rb->host + (page << TARGET_PAGE_BITS);

    return b->copy ? memcpy(b->copy + (b->pages << TARGET_PAGE_BITS), data,
                            TARGET_PAGE_SIZE) : data;
}

static void batch_add_data(Batch *b, uint8_t *data)
{
    struct iovec *last = b->niov ? &b->iov[b->niov - 1] : NULL;

    b->pages++;
    if (last && (uint8_t *)last->iov_base + last->iov_len == data) {
        last->iov_len += TARGET_PAGE_SIZE;
    } else {
        b->iov[b->niov].iov_base = data;
        b->iov[b->niov].iov_len = TARGET_PAGE_SIZE;
        b->niov++;
    }
}

static void batch_add(Batch *b, RAMBlock *rb, uint64_t page, bool zero)
{
    GArray *runs = b->msg.pages.runs;
    uint32_t flags = zero ? COLO_RUN_ZERO : COLO_RUN_DATA;
    ColoRun *last = runs->len ? &g_array_index(runs, ColoRun, runs->len - 1)
                              : NULL;
    bool extends = last && last->flags == flags &&
                   last->first + last->count == page;

    if (extends) {
        last->count++;
    } else {
        ColoRun run = { .first = page, .count = 1, .flags = flags };

        g_array_append_val(runs, run);
    }
    if (!zero) {
        batch_add_data(b, batch_data(b, rb, page));
    }
}

static bool batch_full(const Batch *b)
{
    return b->pages == BATCH_PAGES || b->msg.pages.runs->len == BATCH_PAGES;
}

static bool batch_send(ColoCapture *c, Batch *b, Error **errp)
{
    ColoMsg *msg = &b->msg;
    bool ok;

    if (!msg->pages.runs->len) {
        return true;
    }
    msg->h.data_len = b->pages << TARGET_PAGE_BITS;
    if (c->page_crc) {
        msg->h.flags = COLO_MSG_F_DATA_CRC;
        for (size_t i = 0; i < b->niov; i++) {
            msg->pages.data_crc = colo_crc(msg->pages.data_crc,
                                           b->iov[i].iov_base,
                                           b->iov[i].iov_len);
        }
    }
    ok = c->sending(c->opaque, msg, errp) &&
         colo_link_send(c->link, msg, b->iov, b->niov, errp);
    g_array_set_size(msg->pages.runs, 0);
    msg->pages.data_crc = 0;
    msg->h.flags = 0;
    b->niov = 0;
    b->pages = 0;
    return ok;
}

/*
 * Pages with content go by multifd if it is there, whose threads then find
 * the zero pages; else, and all pages found to be zero here, by the link.
 */
static bool send_block(ColoCapture *c, RAMBlock *rb, Batch *b,
                       uint64_t *by_multifd, Error **errp)
{
    bool multifd = migrate_multifd();
    ZeroPageDetection detection = migrate_zero_page_detection();
    bool find_zero = detection == ZERO_PAGE_DETECTION_LEGACY ||
                     (detection != ZERO_PAGE_DETECTION_NONE && !multifd);
    uint64_t npages = rb->used_length >> TARGET_PAGE_BITS;
    uint64_t page = find_first_bit(rb->bmap, npages);

    for (; page < npages; page = find_next_bit(rb->bmap, npages, page + 1)) {
        void *host = rb->host + (page << TARGET_PAGE_BITS);
        bool zero = find_zero && buffer_is_zero(host, TARGET_PAGE_SIZE);

        if (multifd && !zero) {
            if (!multifd_queue_page(rb, page << TARGET_PAGE_BITS)) {
                error_setg(errp, "a multifd channel failed");
                return false;
            }
            ++*by_multifd;
            colo_link_touch(c->link);
            continue;
        }
        batch_add(b, rb, page, zero);
        if (batch_full(b) && !batch_send(c, b, errp)) {
            return false;
        }
    }
    bitmap_clear(rb->bmap, 0, npages);
    return batch_send(c, b, errp);
}

/* Flush the multifd channels, and say so on the link. */
static bool send_sync(ColoCapture *c, uint64_t epoch, uint64_t queued,
                      uint64_t zero_before, Error **errp)
{
    g_auto(ColoMsg) msg = { 0 };
    uint64_t zero;

    if (multifd_ram_flush_and_sync(NULL) < 0) {
        error_setg(errp, "flushing the multifd channels failed");
        return false;
    }
    zero = stat64_get(&mig_stats.zero_pages) - zero_before;
    c->sent(c->opaque, queued - zero, zero);
    colo_msg_init(&msg, COLO_MSG_SYNC, epoch);
    msg.sync.number = 1;
    return c->sending(c->opaque, &msg, errp) &&
           colo_link_send(c->link, &msg, NULL, 0, errp);
}

bool colo_capture_send(ColoCapture *c, uint64_t epoch, Error **errp)
{
    g_autofree struct iovec *iov = g_new(struct iovec, BATCH_PAGES);
    uint64_t queued = 0, zero = stat64_get(&mig_stats.zero_pages);
    Batch b = { .iov = iov };
    bool ok = true;
    RAMBlock *rb;

    colo_msg_init(&b.msg, COLO_MSG_PAGES, epoch);
    WITH_RCU_READ_LOCK_GUARD() {
        RAMBLOCK_FOREACH_MIGRATABLE(rb) {
            int index = colo_ramlist_find(c->ram, rb->idstr);

            if (index < 0 || rb->used_length !=
                colo_ramlist_get(c->ram, index)->used_length) {
                error_setg(errp, "RAM block '%s' has changed while the VM "
                           "is protected", rb->idstr);
                ok = false;
            } else {
                b.msg.pages.block = index;
                ok = send_block(c, rb, &b, &queued, errp);
            }
            if (!ok) {
                break;
            }
        }
    }
    colo_msg_clear(&b.msg);
    if (ok && migrate_multifd()) {
        ok = send_sync(c, epoch, queued, zero, errp);
    }
    return ok;
}

struct ColoAhead {
    unsigned long **sent;   /* by the block's place in the list */
    uint64_t *npages;
    unsigned n;
    uint8_t *copy;          /* BATCH_PAGES pages */
};

ColoAhead *colo_ahead_new(const ColoRamList *ram)
{
    ColoAhead *a = g_new0(ColoAhead, 1);

    a->n = colo_ramlist_size(ram);
    a->sent = g_new(unsigned long *, a->n);
    a->npages = g_new(uint64_t, a->n);
    for (unsigned i = 0; i < a->n; i++) {
        a->npages[i] = colo_ramlist_pages(ram, i);
        a->sent[i] = bitmap_new(a->npages[i]);
    }
    a->copy = g_malloc(BATCH_PAGES * TARGET_PAGE_SIZE);
    return a;
}

void colo_ahead_free(ColoAhead *a)
{
    if (a) {
        for (unsigned i = 0; i < a->n; i++) {
            g_free(a->sent[i]);
        }
        g_free(a->sent);
        g_free(a->npages);
        g_free(a->copy);
        g_free(a);
    }
}

void colo_ahead_restart(ColoAhead *a)
{
    for (unsigned i = 0; i < a->n; i++) {
        bitmap_zero(a->sent[i], a->npages[i]);
    }
}

/* How far the sending ahead of a round has come. */
typedef struct Round {
    ColoCapture *c;
    uint64_t left;          /* pages */
    bool (*enough)(void *opaque);
    bool over;
} Round;

static bool send_block_ahead(Round *r, RAMBlock *rb, unsigned long *sent,
                             Batch *b, Error **errp)
{
    uint64_t npages = rb->used_length >> TARGET_PAGE_BITS;
    bool find_zero = migrate_zero_page_detection() != ZERO_PAGE_DETECTION_NONE;
    uint64_t page = find_first_bit(rb->bmap, npages);

    for (; page < npages && !r->over;
         page = find_next_bit(rb->bmap, npages, page + 1)) {
        void *host = rb->host + (page << TARGET_PAGE_BITS);

        if (test_bit(page, sent)) {
            continue;
        }
        /* What is written from now on is seen by the next sync. */
        clear_bit(page, rb->bmap);
        set_bit(page, sent);
        batch_add(b, rb, page, find_zero &&
                               buffer_is_zero(host, TARGET_PAGE_SIZE));
        r->over = --r->left == 0;
        if (batch_full(b)) {
            if (!batch_send(r->c, b, errp)) {
                return false;
            }
            r->over |= r->enough(r->c->opaque);
        }
    }
    return batch_send(r->c, b, errp);
}

bool colo_capture_send_ahead(ColoCapture *c, ColoAhead *a, uint64_t epoch,
                             uint64_t pages, bool (*enough)(void *opaque),
                             Error **errp)
{
    g_autofree struct iovec *iov = g_new(struct iovec, BATCH_PAGES);
    Batch b = { .iov = iov, .copy = a->copy };
    Round r = { .c = c, .left = pages ?: UINT64_MAX, .enough = enough };
    bool ok = true;
    RAMBlock *rb;

    colo_msg_init(&b.msg, COLO_MSG_PAGES, epoch);
    RCU_READ_LOCK_GUARD();
    RAMBLOCK_FOREACH_MIGRATABLE(rb) {
        int index = colo_ramlist_find(c->ram, rb->idstr);

        /* a block that is new or has changed is the checkpoint's to refuse */
        if (index >= 0 && !r.over &&
            rb->used_length == colo_ramlist_get(c->ram, index)->used_length) {
            b.msg.pages.block = index;
            ok = send_block_ahead(&r, rb, a->sent[index], &b, errp);
            if (!ok) {
                break;
            }
        }
    }
    colo_msg_clear(&b.msg);
    return ok;
}
