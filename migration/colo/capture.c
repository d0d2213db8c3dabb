/*
 * COLO: what a checkpoint takes from the PVM's memory
 *
 * The dirty bitmaps are those of the migration (RAMBlock::bmap), whose dirty
 * log goes on through COLO. Pages of the stopped VM are copied, to be sent when
 * it runs again; those for which there is no room are sent before.
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
#include "batch.h"
#include "capture.h"

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

/* What becomes of the dirty pages of the stopped VM. */
typedef struct Take {
    ColoBatch batch;
    ColoKept *kept;
    uint64_t first;             /* so many are sent before others are kept */
    uint64_t by_multifd;        /* pages that went that way */
} Take;

/*
 * By multifd if it is there, whose threads then find the zero pages; else, and
 * if the page was found to be zero here, by the link.
 */
static bool send_page(Take *t, RAMBlock *rb, unsigned index, uint64_t page,
                      void *data, Error **errp)
{
    if (!migrate_multifd() || !data) {
        return colo_batch_add(&t->batch, index, page, data, NULL, errp);
    }
    if (!multifd_queue_page(rb, page << TARGET_PAGE_BITS)) {
        error_setg(errp, "a multifd channel failed");
        return false;
    }
    t->by_multifd++;
    colo_link_touch(t->batch.capture->link);
    return true;
}

static bool take_block(Take *t, RAMBlock *rb, unsigned index, Error **errp)
{
    ZeroPageDetection detection = migrate_zero_page_detection();
    bool find_zero = detection == ZERO_PAGE_DETECTION_LEGACY ||
                     (detection != ZERO_PAGE_DETECTION_NONE &&
                      !migrate_multifd());
    uint64_t npages = rb->used_length >> TARGET_PAGE_BITS;
    uint64_t page = find_first_bit(rb->bmap, npages);

    for (; page < npages; page = find_next_bit(rb->bmap, npages, page + 1)) {
        uint8_t *host = rb->host + (page << TARGET_PAGE_BITS);
        void *data = find_zero && buffer_is_zero(host, TARGET_PAGE_SIZE) ?
                     NULL : host;

        if (!t->first) {
            colo_kept_add(t->kept, index, page, data);
        } else if (send_page(t, rb, index, page, data, errp)) {
            t->first--;
        } else {
            return false;
        }
    }
    bitmap_clear(rb->bmap, 0, npages);
    return true;
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

static bool take_blocks(Take *t, Error **errp)
{
    const ColoRamList *ram = t->batch.capture->ram;
    RAMBlock *rb;

    RCU_READ_LOCK_GUARD();
    RAMBLOCK_FOREACH_MIGRATABLE(rb) {
        int index = colo_ramlist_find(ram, rb->idstr);

        if (index < 0 ||
            rb->used_length != colo_ramlist_get(ram, index)->used_length) {
            error_setg(errp, "RAM block '%s' has changed while the VM is "
                       "protected", rb->idstr);
            return false;
        }
        if (!take_block(t, rb, index, errp)) {
            return false;
        }
    }
    return colo_batch_flush(&t->batch, errp);
}

bool colo_capture_fits(const ColoKept *kept, uint64_t dirty)
{
    return kept && dirty <= colo_kept_room(kept);
}

bool colo_capture_take(ColoCapture *c, ColoKept *kept, uint64_t dirty,
                       uint64_t epoch, Error **errp)
{
    uint64_t zero = stat64_get(&mig_stats.zero_pages);
    Take t = { .kept = kept };
    bool ok;

    t.first = !kept ? UINT64_MAX : colo_capture_fits(kept, dirty) ? 0 :
              dirty - colo_kept_room(kept);
    colo_batch_init(&t.batch, c, epoch, false);
    ok = take_blocks(&t, errp);
    colo_batch_destroy(&t.batch);
    if (ok && migrate_multifd()) {
        ok = send_sync(c, epoch, t.by_multifd, zero, errp);
    }
    return ok;
}

static bool send_kept_page(void *opaque, unsigned block, uint64_t page,
                           void *data, Error **errp)
{
    return colo_batch_add(opaque, block, page, data, NULL, errp);
}

bool colo_capture_send_kept(ColoCapture *c, ColoKept *kept, uint64_t epoch,
                            Error **errp)
{
    ColoBatch batch;
    bool ok;

    colo_batch_init(&batch, c, epoch, false);
    ok = colo_kept_foreach(kept, send_kept_page, &batch, errp) &&
         colo_batch_flush(&batch, errp);
    colo_batch_destroy(&batch);
    colo_kept_clear(kept);
    return ok;
}
