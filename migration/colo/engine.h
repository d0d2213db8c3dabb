/*
 * COLO: what the sides of the engine share
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MIGRATION_COLO_ENGINE_H
#define MIGRATION_COLO_ENGINE_H

#include "migration/colo.h"
#include "qemu/thread.h"
#include "link.h"
#include "protocol.h"
#include "stats.h"

/*
 * How long a peer that still answers has to stop when this side takes over,
 * and how long one may be silent while the PVM stands still for it.
 */
#define COLO_TAKEOVER_MS 1000
#define COLO_HANDSHAKE_MS 10000
#define COLO_STALL_MS 10000

/*
 * Everything both sides have in common. All fields are under @lock, which is
 * taken inside the BQL, never around it, and never held during I/O.
 */
typedef struct ColoEngine {
    QemuMutex lock;
    QemuCond cond;              /* something below, or a machine, changed */
    COLOMode mode;
    COLOMode last_mode;
    COLOExitReason exit_reason;
    bool exit_sent;             /* COLO_EXIT, for this protection */
    bool has_stats;
    ColoStats stats;
    bool requested;             /* a checkpoint, for @reason */
    ColoCheckpointReason reason;
    bool failover;              /* management decided for this side */
    bool cancel;                /* primary: end in order */
    bool quit;                  /* QEMU exits */
    bool in_checkpoint;         /* the VM stands still for the engine */
    bool want_run;              /* and is to run afterwards */
    bool standing;              /* the VM, its devices included, stands still */
    bool held_off;              /* the main loop does something to the VM */
    bool settling;              /* somebody waits for an end of that */
    unsigned changes;           /* how often these have changed */
    bool stopped;               /* the peer has taken over, never run again */
    ShutdownCause shutdown;     /* put off until after the checkpoint */
    ShutdownCause reset;        /* secondary: likewise */
    bool let_go;                /* do not put it off again */
    ColoLink *link;             /* while there is one */
} ColoEngine;

extern ColoEngine colo_engine;

/* Start a protection in @mode: what the last one left is forgotten. */
void colo_engine_begin(COLOMode mode);

/* Protection has ended. BQL. */
void colo_engine_end(void);

/* Send COLO_EXIT, once for each protection. BQL. */
void colo_engine_exit(COLOExitReason reason);

/* Describe this QEMU for a HELLO; the caller clears it. BQL. */
bool colo_engine_hello(ColoHello *hello, Error **errp);

/*
 * Watch over a failover under way: if the link has not ended by
 * COLO_TAKEOVER_MS from now it is shut down. BQL.
 */
void colo_engine_watch_takeover(void);

/*
 * QEMU exits, the link is shut down: wait for the secondary's thread, if there
 * is one, so that it applies nothing to a machine that is being taken apart.
 * It has no limit of its own: with the link shut the thread waits for nothing
 * but what a commit under way asks of the local disks, as do the drains that
 * QEMU's exit goes on with. Main thread, BQL, which is released meanwhile.
 */
void colo_secondary_join(void);

/*
 * If another thread is about to stop, reset or suspend the VM, which gives up
 * the BQL until the vCPUs have paused, wait until it is done: in the meantime
 * vm_stop() would do nothing, and vCPUs and devices would go on writing to the
 * guest's memory; or a reset would be done within the checkpoint. Afterwards
 * the VM is live, or stands still, or QEMU exits. It takes as long as the vCPUs
 * do. BQL, which is released meanwhile.
 */
void colo_engine_settle(void);

/* The VM stands still for the engine no more. BQL. */
void colo_engine_let_go(void);

/*
 * Start the VM, unless QEMU is about to exit: a request to do so may come
 * while it stands still for the engine. BQL.
 */
void colo_engine_vm_start(void);

/*
 * The same for an SVM that is to do nothing until the next commit or the
 * failover: its clock goes on, and it may receive; its vCPUs and timers stand
 * still. BQL.
 */
void colo_engine_vm_start_idle(void);

/*
 * The same for a VM whose own state goes on, and not that of a commit: if it is
 * to stop for a reason that came up meanwhile (a panic, an error of a disk) it
 * does so then, and likewise if the user says so while this gives up the BQL,
 * as starting the VM does under KVM. BQL.
 */
void colo_engine_vm_restart(void);

/*
 * If the VM has stopped for a checkpoint and does not go on, management is
 * told, unless it was when it stopped. BQL.
 */
void colo_engine_tell_stopped(void);

/* Do now what was put off: power off, or reset. BQL. */
void colo_engine_resume_deferred(void);

/*
 * Management decided that this secondary survives. Fails if it can't. Sends
 * to the peer, but does not wait for it. BQL.
 */
bool colo_secondary_decide(Error **errp);

/* Ask the primary for a checkpoint; false if this is not the time. BQL. */
bool colo_secondary_ask(ColoCheckpointReason reason);

#endif
