/*
 * COLO: what management is told of a VM that stops for checkpoints
 *
 * As the interface has it each of them is a STOP and a RESUME. Management that
 * takes a STOP for the user's, and acts on it, has these left out.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/qapi-events-run-state.h"
#include "migration/colo.h"
#include "system/runstate.h"
#include "../migration.h"
#include "../options.h"
#include "engine.h"

/* The state that the VM is believed to be in while it stands still. BQL. */
static RunState believed;
static bool untold;

bool colo_tells_stop(RunState from, RunState to)
{
    /*
     * The first one stops the VM as any migration does, if nobody is to be
     * asked whether to go on.
     */
    bool checkpoint = to == RUN_STATE_COLO ||
                      (to == RUN_STATE_FINISH_MIGRATE && migrate_colo() &&
                       !migrate_pause_before_switchover());

    if (!checkpoint || migrate_get_current()->colo_stop_events) {
        return true;
    }
    believed = from;
    untold = true;
    return false;
}

bool colo_tells_resume(RunState to)
{
    if (untold && believed == to) {
        untold = false;
        return false;
    }
    /* a commit may have put an SVM to sleep, or woken it up */
    colo_engine_tell_stopped();
    return true;
}

RunState colo_told_state(RunState state)
{
    bool checkpoint = state == RUN_STATE_COLO ||
                      state == RUN_STATE_FINISH_MIGRATE;

    return untold && checkpoint ? believed : state;
}

void colo_engine_tell_stopped(void)
{
    if (untold && !runstate_is_live(runstate_get())) {
        untold = false;
        qapi_event_send_stop();
    }
}
