/*
 * Block replication: the gate in front of the secondary disk
 *
 * A filter node that is put on top of the secondary disk while replication
 * runs. The primary's forwarded writes pass through it (its NBD export and
 * whatever else used the disk now uses the gate): before the first write to a
 * cluster since the last checkpoint the cluster's content is copied to the
 * hidden disk. Once the gate is closed it refuses all writes for as long as
 * anyone has it open, so that nothing a former primary still sends arrives.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef BLOCK_REPLICATION_GATE_H
#define BLOCK_REPLICATION_GATE_H

#include "block/block_int.h"
#include "block/replication-state.h"

/*
 * Told of a write of @bytes at @offset that failed with @err, a positive
 * errno: REPL_FAULT_BACKUP if the old content could not be saved and the write
 * was not done, REPL_FAULT_SECONDARY_DISK if the write failed itself. Called
 * in the coroutine of the write, in the AioContext of the disk.
 */
typedef void ReplGateFaultFunc(void *opaque, ReplFault fault, int err,
                               int64_t offset, int64_t bytes);

/*
 * Put a gate on top of @disk, with @hidden, of the same size and writable, to
 * save old content to. @fault gets @opaque. Returns the gate, a reference to
 * which is the caller's, or NULL with @errp set and nothing changed. BQL, not
 * in a coroutine.
 */
BlockDriverState *repl_gate_insert(BlockDriverState *disk,
                                   BlockDriverState *hidden,
                                   ReplGateFaultFunc *fault, void *opaque,
                                   Error **errp);

/* The gate's link to the hidden disk, with write permission. BQL. */
BdrvChild *repl_gate_hidden(BlockDriverState *gate);

/*
 * Is there old content in the hidden disk, saved since it was last emptied?
 * BQL, with @gate drained.
 */
bool repl_gate_has_saved(BlockDriverState *gate);

/*
 * The hidden disk was emptied: all old content is to be saved anew. BQL, with
 * @gate drained.
 */
void repl_gate_restart(BlockDriverState *gate);

/*
 * Refuse all further writes, wait for those that are under way and let go of
 * the hidden disk. Drops the caller's reference: the gate lives on under those
 * who have it open. @fault is not called any more afterwards. BQL, not in a
 * coroutine.
 */
void repl_gate_close(BlockDriverState *gate);

/*
 * Take the gate out again: its users get the disk itself. Drops the caller's
 * reference. BQL, not in a coroutine.
 */
void repl_gate_remove(BlockDriverState *gate);

#endif
