/*
 * COLO: pages of a checkpoint on their way
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/cutils.h"
#include "exec/ramblock.h"
#include "exec/target_page.h"
#include "../migration-stats.h"
#include "../multifd.h"
#include "../options.h"
#include "sender.h"

void colo_sender_init(ColoSender *s, ColoCapture *capture, uint64_t epoch,
                      uint8_t *copies)
{
    *s = (ColoSender) { .zero_before = stat64_get(&mig_stats.zero_pages) };
    colo_batch_init(&s->batch, capture, epoch, copies);
}

void colo_sender_destroy(ColoSender *s)
{
    colo_batch_destroy(&s->batch);
}

bool colo_sender_is_zero(RAMBlock *rb, uint64_t page, bool by_multifd)
{
    ZeroPageDetection detection = migrate_zero_page_detection();

    /* the threads of multifd do it themselves, unless they are not to */
    return (detection == ZERO_PAGE_DETECTION_LEGACY ||
            (detection != ZERO_PAGE_DETECTION_NONE && !by_multifd)) &&
           buffer_is_zero(rb->host + (page << TARGET_PAGE_BITS),
                          TARGET_PAGE_SIZE);
}

static bool send_by_multifd(ColoSender *s, RAMBlock *rb, uint64_t page,
                            bool *sent, Error **errp)
{
    if (!multifd_queue_page(rb, page << TARGET_PAGE_BITS)) {
        error_setg(errp, "a multifd channel failed");
        return false;
    }
    if (++s->queued % COLO_BATCH_PAGES == 0) {
        colo_link_touch(s->batch.capture->link);
        if (sent) {
            *sent = true;
        }
    }
    return true;
}

bool colo_sender_page(ColoSender *s, RAMBlock *rb, unsigned index,
                      uint64_t page, bool *sent, Error **errp)
{
    bool multifd = migrate_multifd();
    bool zero = colo_sender_is_zero(rb, page, multifd);

    if (multifd && !zero) {
        return send_by_multifd(s, rb, page, sent, errp);
    }
    return colo_batch_add(&s->batch, index, page,
                          zero ? NULL : rb->host + (page << TARGET_PAGE_BITS),
                          sent, errp);
}

/* Flush the channels, and say on the link that it was done. */
static bool sync_multifd(ColoSender *s, Error **errp)
{
    ColoCapture *c = s->batch.capture;
    g_auto(ColoMsg) msg = { 0 };
    uint64_t zero;

    if (multifd_ram_flush_and_sync(NULL) < 0) {
        error_setg(errp, "flushing the multifd channels failed");
        return false;
    }
    zero = stat64_get(&mig_stats.zero_pages) - s->zero_before;
    c->sent(c->opaque, s->queued - zero, zero);
    colo_msg_init(&msg, COLO_MSG_SYNC, s->batch.msg.h.epoch);
    msg.sync.number = c->syncs(c->opaque) + 1;
    return c->sending(c->opaque, &msg, errp) &&
           colo_link_send(c->link, &msg, NULL, 0, errp);
}

bool colo_sender_sync(ColoSender *s, Error **errp)
{
    return colo_batch_flush(&s->batch, errp) &&
           (!migrate_multifd() || sync_multifd(s, errp));
}
