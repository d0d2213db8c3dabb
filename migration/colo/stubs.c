/*
 * COLO left out of the build: what the rest of QEMU calls all the same
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "migration/colo.h"
#include "ram.h"

void colo_checkpoint_request(ColoCheckpointReason reason)
{
}

COLOMode get_colo_mode(void)
{
    return COLO_MODE_NONE;
}

bool colo_check_idle(const char *what, Error **errp)
{
    return true;
}

bool colo_check_capabilities(const bool *caps, Error **errp)
{
    error_setg(errp, "capability x-colo: this QEMU was built without "
               "replication; build it with --enable-replication");
    return false;
}

bool colo_check_start(Error **errp)
{
    return colo_check_capabilities(NULL, errp);
}

void migrate_start_colo_process(MigrationState *s)
{
    g_assert_not_reached();
}

bool colo_cancel(void)
{
    return false;
}

bool migration_in_colo_state(void)
{
    return false;
}

bool colo_keeps_translations(void)
{
    return false;
}

bool migration_incoming_colo_enabled(void)
{
    return false;
}

bool migration_incoming_in_colo_state(void)
{
    return false;
}

bool coroutine_fn colo_incoming_co(Error **errp)
{
    g_assert_not_reached();
}

bool colo_incoming_serves(void)
{
    return false;
}

void colo_incoming_end(void)
{
}

void colo_add_catch_up_notifier(Notifier *notifier)
{
}

bool colo_defer_shutdown(ShutdownCause cause)
{
    return false;
}

bool colo_defer_reset(ShutdownCause cause)
{
    return false;
}

void colo_reset_done(void)
{
}

bool colo_hold_off(void)
{
    return true;
}

void colo_hold_off_end(void)
{
}

bool colo_defer_run(bool run, Error **errp)
{
    return false;
}

bool colo_tells_stop(RunState from, RunState to)
{
    return true;
}

bool colo_tells_resume(RunState to)
{
    return true;
}

RunState colo_told_state(RunState state)
{
    return state;
}

void colo_checkpoint_delay_set(void)
{
}

void colo_shutdown(void)
{
}

bool colo_stage_multifd(MultiFDRecvParams *p, Error **errp)
{
    return true;
}
