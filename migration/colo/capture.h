/*
 * COLO: what a checkpoint takes from the PVM's memory
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MIGRATION_COLO_CAPTURE_H
#define MIGRATION_COLO_CAPTURE_H

#include "kept.h"
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
 * sync of the epoch. BQL. Returns the number of dirty pages.
 */
uint64_t colo_capture_sync(bool stopped);

/*
 * After colo_capture_sync() of a running VM, and before any page is read: TCG
 * marks a page before it writes to it, so wait until each vCPU has written what
 * it had marked by then. BQL, which is given up meanwhile; not under RCU.
 */
void colo_capture_settle(void);

/* What the sending of pages needs to know, and to tell its caller. */
typedef struct ColoCapture {
    ColoLink *link;
    ColoRamList *ram;       /* as from colo_capture_ramlist() */
    bool page_crc;          /* checksums were agreed on */
    /* Before each message goes out: false stops the sending. */
    bool (*sending)(void *opaque, const ColoMsg *msg, Error **errp);
    /* Pages that went by multifd, with their content or as zero. */
    void (*sent)(void *opaque, uint64_t pages, uint64_t zero_pages);
    /* How many SYNC messages this checkpoint has had. */
    uint32_t (*syncs)(void *opaque);
    void *opaque;
} ColoCapture;

/*
 * Can all of @dirty pages be kept? If not, colo_capture_take() sends, for which
 * the checkpoint must have begun.
 */
bool colo_capture_fits(const ColoKept *kept, uint64_t dirty);

/*
 * Take all dirty pages of the stopped VM, @dirty of them, off the dirty list:
 * copies of them to @kept, but for those that don't fit, which are sent at once
 * as part of checkpoint @epoch. The VM may run when this returns. Migration
 * thread; without the BQL if something is to be sent.
 */
bool colo_capture_take(ColoCapture *c, ColoKept *kept, uint64_t dirty,
                       uint64_t epoch, Error **errp);

/*
 * Send what was kept as part of checkpoint @epoch, and empty @kept. Migration
 * thread, without the BQL.
 */
bool colo_capture_send_kept(ColoCapture *c, ColoKept *kept, uint64_t epoch,
                            Error **errp);

#endif
