/*
 * COLO: what a checkpoint takes from the PVM's memory
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MIGRATION_COLO_CAPTURE_H
#define MIGRATION_COLO_CAPTURE_H

#include "link.h"
#include "protocol.h"

/*
 * The RAMBlocks that checkpoints carry, in the order of ram_list. The caller
 * frees the list. BQL. Fails if a block can't be described to the peer.
 */
ColoRamList *colo_capture_ramlist(Error **errp);

/*
 * Start from a state in which no page is dirty: the initial migration has
 * sent everything and the VM has not run since. Its dirty log goes on. BQL.
 */
void colo_capture_start(void);

/*
 * Bring the dirty log of the stopped VM up to date. BQL: under TCG the last
 * sync must not release it. Returns the number of dirty pages.
 */
uint64_t colo_capture_sync(void);

/* What colo_capture_send() needs to know, and to tell its caller. */
typedef struct ColoCapture {
    ColoLink *link;
    ColoRamList *ram;       /* as from colo_capture_ramlist() */
    bool page_crc;          /* checksums were agreed on */
    /* Before each message goes out: false stops the sending. */
    bool (*sending)(void *opaque, const ColoMsg *msg, Error **errp);
    /* Pages that went by multifd, with their content or as zero. */
    void (*sent)(void *opaque, uint64_t pages, uint64_t zero_pages);
    void *opaque;
} ColoCapture;

/*
 * Send all dirty pages of the stopped VM as part of checkpoint @epoch, and
 * take them off the dirty list. Migration thread, without the BQL.
 */
bool colo_capture_send(ColoCapture *c, uint64_t epoch, Error **errp);

#endif
