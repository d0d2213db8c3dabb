/*
 * Block replication: start, checkpoint and stop all replicated disks
 *
 * A replication driver registers each of its disks here with four operations;
 * whoever runs the fault-tolerant pair calls them for all disks together.
 * docs/block-replication.txt describes the disks. The order of calls:
 *
 *   secondary: start_all   (before the primary starts)
 *   primary:   start_all
 *   each checkpoint:
 *     primary:   VM stopped and its disks drained, then get_error_all:
 *                without an error the secondary disks have every write up to
 *                the capture
 *     primary:   capture_all, if its VM goes on before the commit
 *     secondary: get_error_all before it says that it can commit
 *     secondary: do_checkpoint_all with the VM stopped, as part of the commit
 *     primary:   do_checkpoint_all
 *   end or failover: stop_all
 *
 * All functions: BQL held, not in coroutines, GLOBAL_STATE_CODE().
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef REPLICATION_H
#define REPLICATION_H

#include "block/block-common.h"
#include "qapi/qapi-types-block-core.h"

#ifdef CONFIG_REPLICATION

/*
 * What a driver does for one of its nodes, when the function below of the same
 * name is called for all. None is NULL; each sets @errp if it failed.
 */
typedef struct ReplicatedDiskOps {
    void (*start)(BlockDriverState *bs, ReplicationMode mode, Error **errp);
    void (*capture)(BlockDriverState *bs);
    void (*lost)(BlockDriverState *bs);
    void (*checkpoint)(BlockDriverState *bs, Error **errp);
    void (*get_error)(BlockDriverState *bs, Error **errp);
    void (*stop)(BlockDriverState *bs, bool failover, Error **errp);
} ReplicatedDiskOps;

typedef struct ReplicatedDisk ReplicatedDisk;

/*
 * Register @bs as a replicated disk. Never fails; the result, which is the
 * registry's, goes to replication_remove() before @bs does.
 */
ReplicatedDisk *replication_add(BlockDriverState *bs,
                                const ReplicatedDiskOps *ops);

/* Take a disk out of the registry and free @disk. */
void replication_remove(ReplicatedDisk *disk);

/*
 * Keep @err, which is taken over, for replication_get_error_all() until the
 * next start or stop: for a disk that fails and will not be there to be asked.
 * The first such error wins.
 */
void replication_set_error(Error *err);

/*
 * Start replication of all disks, this side being @mode. The VM must be
 * stopped, both disks of a pair equal. All are started or none: on an error
 * those that were are stopped again. Disks of a secondary that took over are
 * passed over if @mode is primary.
 */
void replication_start_all(ReplicationMode mode, Error **errp);

/*
 * On a primary: what its guest writes from now on is kept from the secondary
 * until replication_do_checkpoint_all(), though the guest is told at once that
 * it is written. There is a limit to what is held; past it writes wait. The VM
 * is stopped.
 */
void replication_capture_all(void);

/*
 * On a primary: the peer is lost, and nobody has decided yet who survives.
 * Nothing is forwarded any more, which is an error from now on.
 */
void replication_lost_all(void);

/*
 * Make a checkpoint of all disks: on the secondary what the SVM wrote since
 * the last one is dropped and the PVM's writes become its disk's content. Its
 * VM must be stopped. Fails, without having touched the disk, where one has an
 * error; if it fails later, the secondary's disk is in no state to run from
 * and its I/O fails.
 */
void replication_do_checkpoint_all(Error **errp);

/*
 * Set @errp to the first error there was on any disk since the start: writes
 * that were not forwarded, old content that could not be saved, overlays that
 * could not be emptied or merged, a disk that went away. Protection must end
 * then. An error is also that a disk is not being replicated.
 */
void replication_get_error_all(Error **errp);

/*
 * Stop replication of all disks. With @failover the guest carries on here: a
 * primary stops forwarding and cuts the connection to the peer; a secondary
 * refuses what the former primary still sends, undoes its uncommitted writes
 * and merges the SVM's into the disk in a block job. Returns when the job has
 * started. Without @failover a secondary drops what its VM wrote, which must
 * be stopped.
 *
 * A disk that fails does not keep the others from being stopped; @errp is set
 * to the first error.
 */
void replication_stop_all(bool failover, Error **errp);

/*
 * True if @bs is a replication node in primary mode. Such a node reports
 * success for whatever the guest writes, so it must not count where the
 * success of a write is decided. Any thread.
 */
bool replication_is_forwarder(BlockDriverState *bs);

#else

static inline bool replication_is_forwarder(BlockDriverState *bs)
{
    return false;
}

#endif

#endif
