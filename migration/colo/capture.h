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
 * Bring the dirty log up to date. @stopped: the VM is, and this is the last
 * sync of the epoch, which under TCG must not release the BQL; else it may.
 * BQL. Returns the number of dirty pages.
 */
uint64_t colo_capture_sync(bool stopped);

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

/*
 * Which pages were sent ahead, while the VM runs. One that is dirtied again is
 * left to the checkpoint: it is likely to be dirtied a third time.
 */
typedef struct ColoAhead ColoAhead;

/* For the blocks of @ram, which is not kept. Any thread. */
ColoAhead *colo_ahead_new(const ColoRamList *ram);
void colo_ahead_free(ColoAhead *a);

/* A new epoch: no page was sent ahead. Migration thread. */
void colo_ahead_restart(ColoAhead *a);

/*
 * Send dirty pages of the running VM ahead, as part of checkpoint @epoch: at
 * most @pages (0: all), each at most once an epoch, until @enough says so.
 * Migration thread, without the BQL, after colo_capture_sync(). Not with
 * multifd, whose channels could deliver two states of a page in either order.
 */
bool colo_capture_send_ahead(ColoCapture *c, ColoAhead *a, uint64_t epoch,
                             uint64_t pages, bool (*enough)(void *opaque),
                             Error **errp);

#endif
