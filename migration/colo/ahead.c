/*
 * COLO: pages that are sent before the PVM stops
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "qemu/host-utils.h"
#include "qemu/memalign.h"
#include "qemu/rcu.h"
#include "exec/ramblock.h"
#include "exec/ram_addr.h"
#include "exec/target_page.h"
#include "../migration.h"
#include "../ram.h"
#include "ahead.h"
#include "sender.h"

struct ColoAhead {
    unsigned long **sent;   /* by the block's place in the list */
    uint64_t *npages;
    unsigned n;
    uint8_t *copies;        /* of the pages in a message */
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
    a->copies = qemu_memalign(ram->page_size,
                              COLO_BATCH_PAGES * ram->page_size);
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
        qemu_vfree(a->copies);
        g_free(a);
    }
}

void colo_ahead_restart(ColoAhead *a)
{
    for (unsigned i = 0; i < a->n; i++) {
        bitmap_zero(a->sent[i], a->npages[i]);
    }
}

/*
 * The place of @rb in the list, or -1 for one that is new or has changed, which
 * is the checkpoint's to refuse.
 */
static int find_block(const ColoRamList *ram, RAMBlock *rb)
{
    int i = colo_ramlist_find(ram, rb->idstr);

    return i >= 0 && rb->used_length == colo_ramlist_get(ram, i)->used_length ?
           i : -1;
}

uint64_t colo_ahead_unsent(const ColoAhead *a, const ColoRamList *ram)
{
    uint64_t unsent = 0;
    RAMBlock *rb;

    RCU_READ_LOCK_GUARD();
    RAMBLOCK_FOREACH_MIGRATABLE(rb) {
        int i = find_block(ram, rb);

        for (uint64_t w = 0; i >= 0 && w < BITS_TO_LONGS(a->npages[i]); w++) {
            unsent += ctpopl(rb->bmap[w] & ~a->sent[i][w]);
        }
    }
    return unsent;
}

/* How far the sending of a round has come. */
typedef struct Round {
    ColoSender sender;
    uint64_t left;          /* pages */
    bool (*enough)(void *opaque);
    bool again;             /* pages that were sent before, or the others */
    bool over;
} Round;

static bool send_block_ahead(Round *r, RAMBlock *rb, unsigned index,
                             unsigned long *sent, Error **errp)
{
    uint64_t npages = rb->used_length >> TARGET_PAGE_BITS;
    uint64_t page = find_first_bit(rb->bmap, npages);

    for (; page < npages && !r->over;
         page = find_next_bit(rb->bmap, npages, page + 1)) {
        bool went_out = false;

        if (test_bit(page, sent) != r->again) {
            continue;
        }
        /* What is written from now on is seen by the next sync. */
        clear_bit(page, rb->bmap);
        set_bit(page, sent);
        if (!colo_sender_page(&r->sender, rb, index, page, &went_out, errp)) {
            return false;
        }
        r->over = --r->left == 0 ||
                  (went_out && r->enough(r->sender.batch.capture->opaque));
    }
    return true;
}

static bool send_blocks_ahead(ColoAhead *a, Round *r, Error **errp)
{
    const ColoRamList *ram = r->sender.batch.capture->ram;
    RAMBlock *rb;

    RCU_READ_LOCK_GUARD();
    RAMBLOCK_FOREACH_MIGRATABLE(rb) {
        int i = find_block(ram, rb);

        if (i >= 0 && !send_block_ahead(r, rb, i, a->sent[i], errp)) {
            return false;
        }
    }
    return true;
}

bool colo_ahead_send(ColoAhead *a, ColoCapture *c, uint64_t epoch,
                     uint64_t pages, bool (*enough)(void *opaque),
                     uint64_t *sent, Error **errp)
{
    uint64_t most = pages ?: UINT64_MAX;
    Round r = { .left = most, .enough = enough };
    bool ok;

    colo_sender_init(&r.sender, c, epoch, a->copies);
    ok = send_blocks_ahead(a, &r, errp);
    if (ok) {
        r.again = true;
        ok = send_blocks_ahead(a, &r, errp);
    }
    ok = ok && colo_sender_sync(&r.sender, errp);
    colo_sender_destroy(&r.sender);
    *sent = most - r.left;
    return ok;
}
