/*
 * COLO: what Xen's own COLO framework asks of QEMU
 *
 * Xen's toolstack moves CPUs and memory itself and uses QEMU for the disks.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-migration.h"
#include "block/replication.h"

void qmp_xen_set_replication(bool enable, bool primary, bool has_failover,
                             bool failover, Error **errp)
{
    if (enable && has_failover) {
        error_setg(errp, "Parameter 'failover' is only for 'enable': false");
    } else if (enable) {
        replication_start_all(primary ? REPLICATION_MODE_PRIMARY :
                                        REPLICATION_MODE_SECONDARY, errp);
    } else if (!primary && !has_failover) {
        error_setg(errp, "Parameter 'failover' is needed to end the "
                   "replication of a secondary");
    } else {
        replication_stop_all(has_failover && failover, errp);
    }
}

ReplicationStatus *qmp_query_xen_replication_status(Error **errp)
{
    ReplicationStatus *status = g_new0(ReplicationStatus, 1);
    Error *err = NULL;

    replication_get_error_all(&err);
    if (err) {
        status->error = true;
        status->desc = g_strdup(error_get_pretty(err));
        error_free(err);
    }
    return status;
}

void qmp_xen_colo_do_checkpoint(Error **errp)
{
    replication_do_checkpoint_all(errp);
}
