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

typedef struct ColoBatch {
    ColoCapture *capture;
    ColoMsg msg;
    struct iovec *iov;
    size_t niov;
    uint64_t pages;         /* with data */
    uint8_t *copy;          /* room for their data; NULL: it stays put */
} ColoBatch;

/*
 * A batch of pages of checkpoint @epoch. With @copy their data is copied as
 * they are added, or else must stay as it is until they are sent: what a
 * running VM writes between the checksum and the sending would make the one
 * wrong.
 */
void colo_batch_init(ColoBatch *b, ColoCapture *capture, uint64_t epoch,
                     bool copy);
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
