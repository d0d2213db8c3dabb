/*
 * COLO: pages that are sent before the PVM stops
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "qemu/cutils.h"
#include "qemu/rcu.h"
#include "exec/ramblock.h"
#include "exec/ram_addr.h"
#include "exec/target_page.h"
#include "../migration.h"
#include "../options.h"
#include "../ram.h"
#include "ahead.h"
#include "batch.h"

struct ColoAhead {
    unsigned long **sent;   /* by the block's place in the list */
    uint64_t *npages;
    unsigned n;
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
    ColoBatch batch;
    uint64_t left;          /* pages */
    bool (*enough)(void *opaque);
    bool over;
} Round;

static bool send_block_ahead(Round *r, RAMBlock *rb, unsigned index,
                             unsigned long *sent, Error **errp)
{
    uint64_t npages = rb->used_length >> TARGET_PAGE_BITS;
    bool find_zero = migrate_zero_page_detection() != ZERO_PAGE_DETECTION_NONE;
    uint64_t page = find_first_bit(rb->bmap, npages);

    for (; page < npages && !r->over;
         page = find_next_bit(rb->bmap, npages, page + 1)) {
        uint8_t *host = rb->host + (page << TARGET_PAGE_BITS);
        bool went_out = false;

        if (test_bit(page, sent)) {
            continue;
        }
        /* What is written from now on is seen by the next sync. */
        clear_bit(page, rb->bmap);
        set_bit(page, sent);
        if (!colo_batch_add(&r->batch, index, page,
                            find_zero && buffer_is_zero(host, TARGET_PAGE_SIZE)
                            ? NULL : host, &went_out, errp)) {
            return false;
        }
        r->over = --r->left == 0 ||
                  (went_out && r->enough(r->batch.capture->opaque));
    }
    return true;
}

bool colo_ahead_send(ColoAhead *a, ColoCapture *c, uint64_t epoch,
                     uint64_t pages, bool (*enough)(void *opaque),
                     Error **errp)
{
    Round r = { .left = pages ?: UINT64_MAX, .enough = enough };
    bool ok = true;
    RAMBlock *rb;

    colo_batch_init(&r.batch, c, epoch, true);
    WITH_RCU_READ_LOCK_GUARD() {
        RAMBLOCK_FOREACH_MIGRATABLE(rb) {
            int i = colo_ramlist_find(c->ram, rb->idstr);

            /* one that is new or has changed is the checkpoint's to refuse */
            if (i >= 0 && ok && !r.over &&
                rb->used_length == colo_ramlist_get(c->ram, i)->used_length) {
                ok = send_block_ahead(&r, rb, i, a->sent[i], errp);
            }
        }
    }
    ok = ok && colo_batch_flush(&r.batch, errp);
    colo_batch_destroy(&r.batch);
    return ok;
}
