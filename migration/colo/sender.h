/*
 * COLO: pages of a checkpoint on their way
 *
 * By multifd where it is in use, else, and if they are zero or have been
 * copied, in PAGES messages.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MIGRATION_COLO_SENDER_H
#define MIGRATION_COLO_SENDER_H

#include "batch.h"

typedef struct ColoSender {
    ColoBatch batch;
    uint64_t queued;        /* pages given to multifd */
    uint64_t zero_before;   /* pages that it had found to be zero until then */
} ColoSender;

/* Pages of checkpoint @epoch; @copies as for colo_batch_init(). */
void colo_sender_init(ColoSender *s, ColoCapture *capture, uint64_t epoch,
                      uint8_t *copies);
void colo_sender_destroy(ColoSender *s);

/*
 * Send page @page of @rb, which is block @index of the list, or say that it is
 * zero if whoever sends it has to find that out and it is. *@sent, if that is
 * not NULL, becomes true now and then. Multifd reads the guest's memory until
 * colo_sender_sync() returns. Migration thread, under RCU.
 */
bool colo_sender_page(ColoSender *s, RAMBlock *rb, unsigned index,
                      uint64_t page, bool *sent, Error **errp);

/*
 * All pages are sent. With multifd that ends with a SYNC even if none went that
 * way: so what is sent before and after it is in order. Migration thread.
 */
bool colo_sender_sync(ColoSender *s, Error **errp);

/* Is page @page of @rb to be looked at, and zero? */
bool colo_sender_is_zero(RAMBlock *rb, uint64_t page, bool by_multifd);

#endif
