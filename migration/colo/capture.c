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

uint64_t colo_capture_sync(void)
{
    uint64_t dirty = 0;
    RAMBlock *rb;

    memory_global_dirty_log_sync(true);
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
} Batch;

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
    if (zero) {
        return;
    }
    b->pages++;
    if (extends) {
        b->iov[b->niov - 1].iov_len += TARGET_PAGE_SIZE;
    } else {
        b->iov[b->niov].iov_base = rb->host + (page << TARGET_PAGE_BITS);
        b->iov[b->niov].iov_len = TARGET_PAGE_SIZE;
        b->niov++;
    }
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
        if ((b->pages == BATCH_PAGES ||
             b->msg.pages.runs->len == BATCH_PAGES) &&
            !batch_send(c, b, errp)) {
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
