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
#include "qemu/main-loop.h"
#include "qemu/rcu.h"
#include "exec/ramblock.h"
#include "exec/ram_addr.h"
#include "exec/target_page.h"
#include "exec/memory.h"
#include "../migration.h"
#include "../ram.h"
#include "batch.h"
#include "capture.h"
#include "sender.h"

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

void colo_capture_settle(void)
{
    memory_global_after_dirty_log_sync();
}

/* What becomes of the dirty pages of the stopped VM. */
typedef struct Take {
    ColoSender sender;
    ColoKept *kept;
    uint64_t first;             /* so many are sent before others are kept */
} Take;

static bool take_block(Take *t, RAMBlock *rb, unsigned index, Error **errp)
{
    uint64_t npages = rb->used_length >> TARGET_PAGE_BITS;
    uint64_t page = find_first_bit(rb->bmap, npages);

    for (; page < npages; page = find_next_bit(rb->bmap, npages, page + 1)) {
        if (!t->first) {
            colo_kept_add(t->kept, index, page,
                          colo_sender_is_zero(rb, page, false) ? NULL :
                          rb->host + (page << TARGET_PAGE_BITS));
        } else if (colo_sender_page(&t->sender, rb, index, page, NULL, errp)) {
            t->first--;
        } else {
            return false;
        }
    }
    bitmap_clear(rb->bmap, 0, npages);
    return true;
}

static bool take_blocks(Take *t, Error **errp)
{
    const ColoRamList *ram = t->sender.batch.capture->ram;
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
    return true;
}

bool colo_capture_fits(const ColoKept *kept, uint64_t dirty)
{
    return dirty <= colo_kept_room(kept);
}

bool colo_capture_take(ColoCapture *c, ColoKept *kept, uint64_t dirty,
                       uint64_t epoch, Error **errp)
{
    Take t = {
        .kept = kept,
        .first = dirty - MIN(dirty, colo_kept_room(kept)),
    };
    bool ok;

    colo_sender_init(&t.sender, c, epoch, NULL);
    ok = take_blocks(&t, errp) &&
         (colo_capture_fits(kept, dirty) || colo_sender_sync(&t.sender, errp));
    colo_sender_destroy(&t.sender);
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

    colo_batch_init(&batch, c, epoch, NULL);
    ok = colo_kept_foreach(kept, send_kept_page, &batch, errp) &&
         colo_batch_flush(&batch, errp);
    colo_batch_destroy(&batch);
    colo_kept_clear(kept);
    return ok;
}
