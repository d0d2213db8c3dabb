/*
 * Block replication: what a replication node may do, and when
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "block/replication-state.h"

static const char *const fault_text[REPL_FAULT__MAX] = {
    [REPL_FAULT_FORWARD] =
        "a write could not be forwarded to the secondary",
    [REPL_FAULT_TIMEOUT] =
        "the secondary does not answer forwarded writes",
    [REPL_FAULT_LOST] =
        "the secondary was lost, and what was written since is not forwarded",
    [REPL_FAULT_BACKUP] =
        "old content of the secondary disk could not be saved to the hidden "
        "disk",
    [REPL_FAULT_SECONDARY_DISK] =
        "a forwarded write to the secondary disk failed",
    [REPL_FAULT_EMPTY_ACTIVE] =
        "the active disk could not be emptied",
    [REPL_FAULT_EMPTY_HIDDEN] =
        "the hidden disk could not be emptied",
    [REPL_FAULT_MERGE] =
        "merging the active and the hidden disk into the secondary disk "
        "failed, both are kept and in use",
};

void repl_state_init(ReplState *s, ReplicationMode mode)
{
    *s = (ReplState) { .mode = mode, .stage = REPL_STAGE_NONE };
}

static bool is_secondary(const ReplState *s)
{
    return s->mode == REPLICATION_MODE_SECONDARY;
}

static bool took_over(const ReplState *s)
{
    return is_secondary(s) && (s->stage == REPL_STAGE_FAILOVER ||
                               s->stage == REPL_STAGE_DONE);
}

static ReplVerdict may_start_fresh(const ReplState *s, ReplicationMode mode,
                                   Error **errp)
{
    if (mode != s->mode) {
        error_setg(errp, "the node has mode=%s, but this side starts as %s",
                   ReplicationMode_str(s->mode), ReplicationMode_str(mode));
        return REPL_REFUSE;
    }
    if (s->missed_writes) {
        error_setg(errp, "the guest has written to the disk without the "
                   "secondary, so the secondary disk differs");
        error_append_hint(errp, "Synchronise the secondary disk, stop the VM, "
                          "then add the replication node anew.\n");
        return REPL_REFUSE;
    }
    return REPL_ACT;
}

ReplVerdict repl_state_may_start(const ReplState *s, ReplicationMode mode,
                                 Error **errp)
{
    ERRP_GUARD();

    if (s->stage == REPL_STAGE_NONE ||
        (s->stage == REPL_STAGE_DONE && !is_secondary(s))) {
        return may_start_fresh(s, mode, errp);
    }
    if (took_over(s) && mode == REPLICATION_MODE_PRIMARY) {
        return REPL_NOTHING;
    }

    switch (s->stage) {
    case REPL_STAGE_RUNNING:
        error_setg(errp, "replication is already running");
        break;
    case REPL_STAGE_FAILOVER_FAILED:
        error_setg(errp, "%s", fault_text[REPL_FAULT_MERGE]);
        break;
    default:
        error_setg(errp, "the secondary has taken over, this node only passes "
                   "requests on");
        break;
    }
    return REPL_REFUSE;
}

static void set_fault(const ReplState *s, Error **errp)
{
    const char *text = fault_text[s->fault];

    if (s->fault_bytes) {
        error_setg_errno(errp, s->fault_errno, "%s (%" PRId64 " bytes at "
                         "offset %" PRId64 ")", text, s->fault_bytes,
                         s->fault_offset);
    } else {
        error_setg_errno(errp, s->fault_errno, "%s", text);
    }
}

ReplVerdict repl_state_may_checkpoint(const ReplState *s, Error **errp)
{
    if (took_over(s)) {
        return REPL_NOTHING;
    }
    if (s->stage != REPL_STAGE_RUNNING) {
        error_setg(errp, "replication is not running");
        return REPL_REFUSE;
    }
    if (s->fault != REPL_FAULT_NONE) {
        set_fault(s, errp);
        return REPL_REFUSE;
    }
    return REPL_ACT;
}

ReplVerdict repl_state_may_stop(const ReplState *s, bool failover,
                                Error **errp)
{
    switch (s->stage) {
    case REPL_STAGE_RUNNING:
        return REPL_ACT;
    case REPL_STAGE_FAILOVER_FAILED:
        return failover ? REPL_ACT : REPL_NOTHING;
    case REPL_STAGE_NONE:
        if (failover && is_secondary(s)) {
            error_setg(errp, "replication is not running, so there is no "
                       "state of the disk to take over");
            return REPL_REFUSE;
        }
        return REPL_NOTHING;
    default:
        return REPL_NOTHING;
    }
}

bool repl_state_may_merge(const ReplState *s, Error **errp)
{
    if (s->torn) {
        error_setg(errp, "a checkpoint failed half way, so the active and the "
                   "hidden disk hold parts of two states and are not merged");
        return false;
    }
    return true;
}

void repl_state_attached(ReplState *s, bool attached, bool vm_paused)
{
    if (!attached) {
        /* what is written meanwhile nobody knows */
        s->in_step = false;
        s->missed_writes |= s->attached && s->stage == REPL_STAGE_NONE;
    } else if (!s->attached) {
        s->attached = true;
        s->in_step = vm_paused;
    }
}

void repl_state_started(ReplState *s)
{
    s->stage = REPL_STAGE_RUNNING;
    s->captured = false;
    s->torn = false;
    s->fault = REPL_FAULT_NONE;
}

void repl_state_stopped(ReplState *s)
{
    s->stage = is_secondary(s) ? REPL_STAGE_NONE : REPL_STAGE_DONE;
}

void repl_state_merging(ReplState *s)
{
    s->stage = REPL_STAGE_FAILOVER;
    s->fault = REPL_FAULT_NONE;
}

void repl_state_merged(ReplState *s, int ret)
{
    if (ret < 0) {
        s->stage = REPL_STAGE_FAILOVER_FAILED;
        repl_state_fault(s, REPL_FAULT_MERGE, -ret, 0, 0);
    } else {
        s->stage = REPL_STAGE_DONE;
    }
}

void repl_state_captured(ReplState *s)
{
    s->captured = s->stage == REPL_STAGE_RUNNING;
}

void repl_state_committed(ReplState *s)
{
    s->captured = false;
}

bool repl_state_holds(const ReplState *s)
{
    return s->stage == REPL_STAGE_RUNNING && s->fault == REPL_FAULT_NONE &&
           (s->captured || s->queued);
}

void repl_state_set_queued(ReplState *s, bool queued)
{
    s->queued = queued;
}

void repl_state_dropped(ReplState *s)
{
    s->queued = false;
    s->missed_writes = true;
}

void repl_state_emptying(ReplState *s)
{
    s->torn = true;
}

void repl_state_emptied(ReplState *s)
{
    s->torn = false;
}

ReplIo repl_state_read(const ReplState *s)
{
    if (!is_secondary(s) || s->stage == REPL_STAGE_NONE || s->torn) {
        return REPL_IO_FAIL;
    }
    return REPL_IO_PASS;
}

ReplIo repl_state_write(ReplState *s)
{
    if (is_secondary(s)) {
        return repl_state_read(s);
    }

    switch (s->stage) {
    case REPL_STAGE_NONE:
        if (s->in_step && !s->missed_writes) {
            return REPL_IO_FORWARD;
        }
        s->missed_writes = true;
        return REPL_IO_FAIL;
    case REPL_STAGE_RUNNING:
        if (s->fault != REPL_FAULT_NONE) {
            return REPL_IO_DROP;
        }
        return repl_state_holds(s) ? REPL_IO_HOLD : REPL_IO_FORWARD;
    default:
        s->missed_writes = true;
        return REPL_IO_DROP;
    }
}

bool repl_state_fault(ReplState *s, ReplFault fault, int err,
                      int64_t offset, int64_t bytes)
{
    if (!is_secondary(s)) {
        s->missed_writes = true;
        if (s->stage != REPL_STAGE_RUNNING) {
            return false;
        }
    }
    if (s->fault != REPL_FAULT_NONE) {
        return false;
    }
    s->fault = fault;
    s->fault_errno = err;
    s->fault_offset = offset;
    s->fault_bytes = bytes;
    return true;
}

void repl_state_get_error(const ReplState *s, const char *node, Error **errp)
{
    ERRP_GUARD();

    if (s->fault != REPL_FAULT_NONE) {
        set_fault(s, errp);
    } else if (s->stage == REPL_STAGE_NONE) {
        error_setg(errp, "replication is not running");
    } else {
        return;
    }
    error_prepend(errp, "Replication node '%s': ", node);
}
