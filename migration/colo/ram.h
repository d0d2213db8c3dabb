/*
 * COLO: the secondary's memory
 *
 * What the SVM runs on, and the base, which is the memory as of the last
 * commit. The pages of the checkpoint under way wait in a stage until it is
 * whole, or in the base where the SVM does not see it. A commit completes the
 * base, and takes the SVM's memory to what it has now: what came, and what else
 * the SVM has changed.
 *
 * How the SVM's memory and the base are kept apart is decided block by block:
 *
 *   COW      the SVM runs on a private mapping of the base (see cow.h): what
 *            is the same is there once, and the kernel knows what is not
 *   COMPARE  a copy, looked through at each commit: small blocks
 *   LOG      a copy, with a log of what the SVM writes: where COW can't be had
 *            (huge pages, memory that is shared, locked, preallocated, bound
 *            to NUMA nodes, not reserved, used by devices of the host, or that
 *            can change its size)
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MIGRATION_COLO_RAM_H
#define MIGRATION_COLO_RAM_H

#include "qapi/qapi-types-colo.h"
#include "../multifd.h"
#include "wire.h"

/*
 * Take the base of all RAMBlocks, whose layout in the checkpoints is @layout
 * (the primary's, already matched with ours; kept until colo_ram_free()),
 * and start to log what the SVM dirties. BQL, VM stopped.
 */
bool colo_ram_setup(const ColoRamList *layout, Error **errp);

/* How each block is kept, for QMP; NULL if there is none. BQL. */
ColoMemoryBlockList *colo_ram_query(void);

/* No checkpoint comes any more: the SVM's writes are not logged. BQL. */
void colo_ram_stop(void);

/*
 * Give everything back, after colo_ram_stop(); the SVM keeps the memory it runs
 * on. That takes tens of ms for a big guest, so not under the BQL if there is
 * a choice. Receiving thread.
 */
void colo_ram_free(void);

/*
 * Where the data of the checked PAGES message @msg is to be received: fills
 * @iov, which has room for as many entries as there are pages of data, and
 * returns how many it used. Pages sent as zero are staged by this call.
 * Receiving thread.
 */
size_t colo_ram_stage(const ColoMsg *msg, struct iovec *iov);

/*
 * A multifd channel has decoded and validated the header of a packet of
 * pages. While a secondary receives checkpoints, direct its data to the
 * staging memory and count it. Channel threads.
 */
bool colo_stage_multifd(MultiFDRecvParams *p, Error **errp);

/*
 * All that the primary gave to multifd before a SYNC is there, and is newer
 * than what came of the same pages by the link. Tells how many came since the
 * last call, with their content and as zero. Receiving thread, before it takes
 * another message.
 */
void colo_ram_multifd_synced(uint64_t *pages, uint64_t *zero_pages);

/*
 * Do pages wait here that take a quarter of the guest's memory, and as much as
 * is kept between checkpoints at least? What multifd has brought counts from
 * its SYNC on. Receiving thread.
 */
bool colo_ram_is_full(void);

/* Throw away what is staged. Receiving thread, no data under way. */
void colo_ram_discard_staged(void);

/*
 * Give back the memory that a big checkpoint needed and others don't.
 * Receiving thread, no data under way.
 */
void colo_ram_trim(void);

/*
 * Make the SVM's memory that of the staged checkpoint. BQL, VM stopped, no
 * data under way. Can't fail.
 */
void colo_ram_commit(void);

#endif
