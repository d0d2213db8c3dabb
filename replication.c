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
#include "block/replication.h"

/* All of the below: BQL */
static QLIST_HEAD(, ReplicationState) replicated_disks =
    QLIST_HEAD_INITIALIZER(replicated_disks);

/* The first error that outlives the disk it came from */
static Error *replication_error;

ReplicationState *replication_new(void *opaque, ReplicationOps *ops)
{
    ReplicationState *rs = g_new(ReplicationState, 1);

    GLOBAL_STATE_CODE();

    *rs = (ReplicationState) { .opaque = opaque, .ops = ops };
    QLIST_INSERT_HEAD(&replicated_disks, rs, node);
    return rs;
}

void replication_remove(ReplicationState *rs)
{
    GLOBAL_STATE_CODE();

    if (rs) {
        QLIST_REMOVE(rs, node);
        g_free(rs);
    }
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

/* Take back what replication_start_all() did to the disks before @failed. */
static void replication_undo_start(ReplicationState *failed)
{
    ReplicationState *rs, *next;

    QLIST_FOREACH_SAFE(rs, &replicated_disks, node, next) {
        if (rs == failed) {
            return;
        }
        if (rs->ops->stop) {
            rs->ops->stop(rs, false, NULL);
        }
    }
}

void replication_start_all(ReplicationMode mode, Error **errp)
{
    ERRP_GUARD();
    ReplicationState *rs, *next;

    GLOBAL_STATE_CODE();

    replication_clear_error();
    QLIST_FOREACH_SAFE(rs, &replicated_disks, node, next) {
        if (rs->ops->start) {
            rs->ops->start(rs, mode, errp);
        }
        if (*errp) {
            replication_undo_start(rs);
            return;
        }
    }
}

void replication_do_checkpoint_all(Error **errp)
{
    ERRP_GUARD();
    ReplicationState *rs, *next;

    GLOBAL_STATE_CODE();

    if (replication_error) {
        error_propagate(errp, error_copy(replication_error));
        return;
    }

    QLIST_FOREACH_SAFE(rs, &replicated_disks, node, next) {
        if (rs->ops->checkpoint) {
            rs->ops->checkpoint(rs, errp);
        }
        if (*errp) {
            return;
        }
    }
}

void replication_get_error_all(Error **errp)
{
    ERRP_GUARD();
    ReplicationState *rs, *next;

    GLOBAL_STATE_CODE();

    if (replication_error) {
        error_propagate(errp, error_copy(replication_error));
        return;
    }

    QLIST_FOREACH_SAFE(rs, &replicated_disks, node, next) {
        if (rs->ops->get_error) {
            rs->ops->get_error(rs, errp);
        }
        if (*errp) {
            return;
        }
    }
}

void replication_stop_all(bool failover, Error **errp)
{
    ReplicationState *rs, *next;

    GLOBAL_STATE_CODE();

    replication_clear_error();
    QLIST_FOREACH_SAFE(rs, &replicated_disks, node, next) {
        Error *local_err = NULL;

        if (rs->ops->stop) {
            rs->ops->stop(rs, failover, &local_err);
        }
        /* A disk that cannot be stopped must not keep the others */
        error_propagate(errp, local_err);
    }
}
