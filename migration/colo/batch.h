/*
 * COLO: PAGES messages in the making
 *
 * Gathers pages until there are enough for a message, and sends it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MIGRATION_COLO_BATCH_H
#define MIGRATION_COLO_BATCH_H

#include "capture.h"

/*
 * Pages in a message: enough to make its cost small, and few enough to be in
 * the cache still when they are sent after their checksum was taken.
 */
#define COLO_BATCH_PAGES 128

typedef struct ColoBatch {
    ColoCapture *capture;
    ColoMsg msg;
    struct iovec *iov;
    size_t niov;
    uint64_t pages;         /* with data */
    uint8_t *copies;        /* room for their data; NULL: it stays put */
} ColoBatch;

/*
 * A batch of pages of checkpoint @epoch. Their data is copied to @copies, which
 * is the caller's and has room for as many as a message, as they are added. If
 * it is NULL they must stay as they are until they are sent: what a running VM
 * writes between the checksum and the sending would make the one wrong.
 */
void colo_batch_init(ColoBatch *b, ColoCapture *capture, uint64_t epoch,
                     uint8_t *copies);
void colo_batch_destroy(ColoBatch *b);

/*
 * Add page @page of block @block, whose content is at @data; NULL: it is zero.
 * *@sent, if that is not NULL, becomes true if a message went out. Migration
 * thread.
 */
bool colo_batch_add(ColoBatch *b, unsigned block, uint64_t page, void *data,
                    bool *sent, Error **errp);

/* Send what is left. */
bool colo_batch_flush(ColoBatch *b, Error **errp);

#endif
