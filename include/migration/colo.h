/*
 * COLO: what the rest of QEMU sees of the checkpoint engine
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef QEMU_COLO_H
#define QEMU_COLO_H

#include "qapi/qapi-types-migration.h"
#include "qapi/qapi-types-colo.h"
#include "qapi/qapi-types-run-state.h"
#include "qemu/notify.h"
#include "qemu/typedefs.h"

/*
 * Ask for a checkpoint as soon as possible, for @reason. Requests that come
 * before the next capture are served by it together and the first reason is
 * counted. Any thread, no locks needed, never waits. Does nothing where COLO
 * is not running. On the secondary the request is sent to the primary.
 */
void colo_checkpoint_request(ColoCheckpointReason reason);

/* Which side this QEMU is at the moment. Any thread. */
COLOMode get_colo_mode(void);

/*
 * Is the VM free of COLO, so that @what may be done to it? If not, the error
 * says what ends protection. BQL.
 */
bool colo_check_idle(const char *what, Error **errp);

/*
 * Can COLO work with this set of migration capabilities, x-colo among them?
 * If not, the error names the one that stands in the way. BQL.
 */
bool colo_check_capabilities(const bool *caps, Error **errp);

/*
 * May an outgoing migration that ends in COLO start for this VM? Refused are
 * writable disks that are not replicated and netdevs that can't be
 * protected. BQL.
 */
bool colo_check_start(Error **errp);

/*
 * Run the primary's side of COLO until protection ends, and leave the VM in
 * the run state that it is to have from then on. Called in the migration
 * thread with the BQL held, the VM stopped and the initial migration sent;
 * returns with the BQL held.
 */
void migrate_start_colo_process(MigrationState *s);

/*
 * Management cancels the migration. True if this was COLO's to do, which
 * then ends protection in order: the secondary stops and the PVM goes on.
 * BQL, returns at once.
 */
bool colo_cancel(void);

/* True from the start of COLO to its end, on the primary. Any thread. */
bool migration_in_colo_state(void);

/* True if the incoming migration is to end in COLO. BQL. */
bool migration_incoming_colo_enabled(void);

/* True from the start of COLO to its end, on the secondary. Any thread. */
bool migration_incoming_in_colo_state(void);

/*
 * Run the secondary's side of COLO until protection ends. Called in the
 * incoming migration's coroutine, with the BQL held, after the initial
 * migration was loaded and before the VM would be started. False: COLO could
 * not start, and the incoming migration has failed.
 */
bool coroutine_fn colo_incoming_co(Error **errp);

/* After colo_incoming_co(): has this side become the sole survivor? BQL. */
bool colo_incoming_serves(void);

/*
 * Is a checkpoint being loaded, which has told TCG of all memory it changed?
 * What was translated from the rest is still right. BQL.
 */
bool colo_keeps_translations(void);

/* How far the primary is ahead of a checkpoint that is loaded, ns */
typedef struct ColoCatchUp {
    int64_t ns;             /* it has run since */
    int64_t stood_ns;       /* it had stood still for the checkpoint before */
} ColoCatchUp;

/*
 * Have @notifier called when a checkpoint was loaded on a secondary, with a
 * ColoCatchUp: what was loaded of a clock is to move on by that, by stood_ns
 * only if it goes on while a VM stands still. The VM is stopped, BQL held, not
 * in the main thread. For ever.
 */
void colo_add_catch_up_notifier(Notifier *notifier);

/* The incoming migration is over; give back what COLO took. BQL. */
void colo_incoming_end(void);

/*
 * The guest powers off or panics, or resets, for @cause. True if a protected
 * VM must not do so now: the engine takes a checkpoint first and asks again,
 * or waits for the peer's. BQL, main loop.
 */
bool colo_defer_shutdown(ShutdownCause cause);
bool colo_defer_reset(ShutdownCause cause);

/* The guest was reset. BQL, main loop. */
void colo_reset_done(void);

/*
 * May what is requested of the VM be done to it (suspend, reset, wakeup, stop)?
 * If not, it stands still for a checkpoint, of which this would be no part, and
 * the main loop is told when it goes on; or it does so for ever. If so, there
 * is no checkpoint until colo_hold_off_end(), though the BQL may be given up.
 * BQL, main loop.
 */
bool colo_hold_off(void);
void colo_hold_off_end(void);

/*
 * The user stops the VM (@run false) or lets it go on. True if COLO takes
 * care of it, or refuses it with an error: within a checkpoint it takes
 * effect at its end, and a VM whose peer has taken over never runs again.
 * BQL.
 */
bool colo_defer_run(bool run, Error **errp);

/*
 * Is management to be told by an event that the live VM stops, going from run
 * state @from to @to; and that it is about to go on, to @to? Not of a
 * checkpoint if the property x-colo-stop-events of the object "migration" is
 * off. BQL.
 */
bool colo_tells_stop(RunState from, RunState to);
bool colo_tells_resume(RunState to);

/* What management takes the run state for, which in truth is @state. BQL. */
RunState colo_told_state(RunState state);

/* The parameter x-checkpoint-delay has changed. Any thread. */
void colo_checkpoint_delay_set(void);

/* QEMU is about to exit: end COLO's threads. BQL held, bounded. */
void colo_shutdown(void);

#endif
