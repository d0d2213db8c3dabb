/*
 * Block replication: the registry of all replicated disks
 *
 * Whoever runs a fault-tolerant pair (COLO, Xen) starts, checkpoints and stops
 * all disks together through this file, without knowing the drivers.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/main-loop.h"
#include "qemu/queue.h"
#include "block/replication.h"

struct ReplicatedDisk {
    BlockDriverState *bs;
    const ReplicatedDiskOps *ops;
    QLIST_ENTRY(ReplicatedDisk) next;
};

/* All of the below: BQL */
static QLIST_HEAD(, ReplicatedDisk) replicated_disks =
    QLIST_HEAD_INITIALIZER(replicated_disks);

/* The first error that outlives the disk it came from */
static Error *replication_error;

ReplicatedDisk *replication_add(BlockDriverState *bs,
                                const ReplicatedDiskOps *ops)
{
    ReplicatedDisk *disk = g_new(ReplicatedDisk, 1);

    GLOBAL_STATE_CODE();

    *disk = (ReplicatedDisk) { .bs = bs, .ops = ops };
    QLIST_INSERT_HEAD(&replicated_disks, disk, next);
    return disk;
}

void replication_remove(ReplicatedDisk *disk)
{
    GLOBAL_STATE_CODE();

    QLIST_REMOVE(disk, next);
    g_free(disk);
}

void replication_set_error(Error *err)
{
    GLOBAL_STATE_CODE();

    if (replication_error) {
        error_free(err);
    } else {
        replication_error = err;
    }
}

static void replication_clear_error(void)
{
    error_free(replication_error);
    replication_error = NULL;
}

/* Whether a disk failed that may no longer be there; then @errp is set. */
static bool earlier_error(Error **errp)
{
    if (replication_error) {
        error_propagate(errp, error_copy(replication_error));
    }
    return replication_error != NULL;
}

/* Take back what replication_start_all() did to the disks before @failed. */
static void replication_undo_start(ReplicatedDisk *failed)
{
    ReplicatedDisk *disk, *after;

    QLIST_FOREACH_SAFE(disk, &replicated_disks, next, after) {
        if (disk == failed) {
            return;
        }
        disk->ops->stop(disk->bs, false, NULL);
    }
}

void replication_start_all(ReplicationMode mode, Error **errp)
{
    ERRP_GUARD();
    ReplicatedDisk *disk, *after;

    GLOBAL_STATE_CODE();

    replication_clear_error();
    QLIST_FOREACH_SAFE(disk, &replicated_disks, next, after) {
        disk->ops->start(disk->bs, mode, errp);
        if (*errp) {
            replication_undo_start(disk);
            return;
        }
    }
}

void replication_capture_all(void)
{
    ReplicatedDisk *disk, *after;

    GLOBAL_STATE_CODE();

    QLIST_FOREACH_SAFE(disk, &replicated_disks, next, after) {
        disk->ops->capture(disk->bs);
    }
}

void replication_lost_all(void)
{
    ReplicatedDisk *disk;

    GLOBAL_STATE_CODE();

    QLIST_FOREACH(disk, &replicated_disks, next) {
        disk->ops->lost(disk->bs);
    }
}

void replication_do_checkpoint_all(Error **errp)
{
    ERRP_GUARD();
    ReplicatedDisk *disk, *after;

    GLOBAL_STATE_CODE();

    if (earlier_error(errp)) {
        return;
    }
    QLIST_FOREACH_SAFE(disk, &replicated_disks, next, after) {
        disk->ops->checkpoint(disk->bs, errp);
        if (*errp) {
            return;
        }
    }
}

void replication_get_error_all(Error **errp)
{
    ERRP_GUARD();
    ReplicatedDisk *disk;

    GLOBAL_STATE_CODE();

    if (earlier_error(errp)) {
        return;
    }
    QLIST_FOREACH(disk, &replicated_disks, next) {
        disk->ops->get_error(disk->bs, errp);
        if (*errp) {
            return;
        }
    }
}

void replication_stop_all(bool failover, Error **errp)
{
    ReplicatedDisk *disk, *after;

    GLOBAL_STATE_CODE();

    replication_clear_error();
    QLIST_FOREACH_SAFE(disk, &replicated_disks, next, after) {
        Error *local_err = NULL;

        disk->ops->stop(disk->bs, failover, &local_err);
        /* A disk that cannot be stopped must not keep the others */
        error_propagate(errp, local_err);
    }
}
