/*
 * Block replication: what a replication node may do, and when
 *
 * Everything here decides and nothing here acts: no I/O, no locks, no global
 * state. block/replication.c asks, does the work and reports back. The caller
 * serialises all calls on one ReplState.
 *
 * Stages of a node:
 *
 *   NONE --start--> RUNNING --stop(failover)--> FAILOVER --merged--> DONE
 *                      |                         |    ^
 *                      |                   failed|    |stop(failover)
 *                      |                         v    |
 *                      |                    FAILOVER_FAILED
 *                      |
 *                      +--stop(primary mode)--> DONE (may start once more)
 *                      +--stop(secondary mode, no failover)--> NONE
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef BLOCK_REPLICATION_STATE_H
#define BLOCK_REPLICATION_STATE_H

#include "qapi/qapi-types-block-core.h"

typedef enum ReplStage {
    REPL_STAGE_NONE,            /* not started */
    REPL_STAGE_RUNNING,         /* the disk is protected */
    REPL_STAGE_FAILOVER,        /* the overlays are being merged */
    REPL_STAGE_FAILOVER_FAILED, /* the merge failed, the overlays are in use */
    REPL_STAGE_DONE,            /* over for good: this node only passes I/O */
} ReplStage;

/* What a caller asking for an operation is to do */
typedef enum ReplVerdict {
    REPL_REFUSE,                /* fail, an Error has been set */
    REPL_NOTHING,               /* succeed without doing anything */
    REPL_ACT,                   /* do it */
} ReplVerdict;

/* What becomes of an I/O request of the guest */
typedef enum ReplIo {
    REPL_IO_FAIL,               /* -EIO */
    REPL_IO_DROP,               /* succeed without doing anything */
    REPL_IO_PASS,               /* to the child, its result is the guest's */
    REPL_IO_FORWARD,            /* to the child, its result is ours alone */
    REPL_IO_HOLD,               /* succeed now, to be forwarded later */
} ReplIo;

/* What went wrong; the rows of docs/block-replication.txt that end here */
typedef enum ReplFault {
    REPL_FAULT_NONE,
    REPL_FAULT_FORWARD,         /* primary: a write did not reach the peer */
    REPL_FAULT_TIMEOUT,         /* primary: the peer does not answer writes */
    REPL_FAULT_LOST,            /* primary: the engine has lost the peer */
    REPL_FAULT_BACKUP,          /* secondary: old content could not be saved */
    REPL_FAULT_SECONDARY_DISK,  /* secondary: a forwarded write failed */
    REPL_FAULT_EMPTY_ACTIVE,    /* secondary: active disk not emptied */
    REPL_FAULT_EMPTY_HIDDEN,    /* secondary: hidden disk not emptied */
    REPL_FAULT_MERGE,           /* secondary: merge at failover failed */
    REPL_FAULT__MAX,
} ReplFault;

typedef struct ReplState {
    ReplicationMode mode;
    ReplStage stage;

    /*
     * Primary mode: the guest wrote while replication was not running, or a
     * write was not forwarded. The peer's disk does not have these writes.
     */
    bool missed_writes;

    /*
     * Primary mode: the VM was paused when the guest's disk got this node, so
     * that no write has been made without it. Those before the start are
     * forwarded, and the peer's disk does not fall behind.
     */
    bool in_step;
    bool attached;

    /*
     * Primary mode: a checkpoint was captured and is not committed yet. What
     * the guest writes now belongs to an epoch the secondary does not run.
     */
    bool captured;

    /* Primary mode: writes that were held have not all been answered yet. */
    bool queued;

    /*
     * Secondary mode: emptying the overlays has begun and not ended. They
     * hold parts of two epochs; neither the guest nor a merge may use them.
     */
    bool torn;

    /* The first fault since the start, with where it happened in bytes */
    ReplFault fault;
    int fault_errno;
    int64_t fault_offset;
    int64_t fault_bytes;
} ReplState;

/* A new node of @mode in stage NONE. */
void repl_state_init(ReplState *s, ReplicationMode mode);

/*
 * May replication be started as @mode? REPL_NOTHING is for a secondary that
 * took over: as part of a new primary it has nothing to do any more. Sets
 * @errp on REPL_REFUSE only.
 */
ReplVerdict repl_state_may_start(const ReplState *s, ReplicationMode mode,
                                 Error **errp);

/*
 * May a checkpoint be committed? Refused where a fault is known, as then the
 * secondary disk may lack writes. Sets @errp on REPL_REFUSE only.
 */
ReplVerdict repl_state_may_checkpoint(const ReplState *s, Error **errp);

/*
 * May replication be stopped, with the guest carrying on here if @failover?
 * REPL_ACT in primary mode means: stop forwarding; in secondary mode: merge
 * if @failover, empty the overlays if not. Sets @errp on REPL_REFUSE only.
 */
ReplVerdict repl_state_may_stop(const ReplState *s, bool failover,
                                Error **errp);

/* May the active and the hidden disk be merged? Sets @errp if not. */
bool repl_state_may_merge(const ReplState *s, Error **errp);

/*
 * The guest can write to the node from now on, or it no more can. @vm_paused:
 * it does not do so yet. Primary mode.
 */
void repl_state_attached(ReplState *s, bool attached, bool vm_paused);

/* Replication was started: faults of a former run are forgotten. */
void repl_state_started(ReplState *s);

/* Replication was stopped without a merge. */
void repl_state_stopped(ReplState *s);

/* The merge has begun. */
void repl_state_merging(ReplState *s);

/* The merge has ended with @ret, 0 or a negative errno. */
void repl_state_merged(ReplState *s, int ret);

/*
 * A checkpoint was captured, and no write is being forwarded: hold what comes
 * now. Primary mode.
 */
void repl_state_captured(ReplState *s);

/*
 * It was committed: what was held may be forwarded, and what comes now behind
 * it. Primary mode.
 */
void repl_state_committed(ReplState *s);

/* Are writes to be held, be it only to stay behind others? Primary mode. */
bool repl_state_holds(const ReplState *s);

/*
 * A write was held (@queued), or the last one that was has been answered or
 * given up. Primary mode.
 */
void repl_state_set_queued(ReplState *s, bool queued);

/* Held writes were dropped: the peer's disk will not have them. */
void repl_state_dropped(ReplState *s);

/* Emptying the overlays begins: until repl_state_emptied() they are torn. */
void repl_state_emptying(ReplState *s);

/* Both overlays are empty. */
void repl_state_emptied(ReplState *s);

/* What becomes of a read of the guest. */
ReplIo repl_state_read(const ReplState *s);

/* What becomes of a write, write-zeroes or discard of the guest. */
ReplIo repl_state_write(ReplState *s);

/*
 * Remember @fault with @err, a positive errno, if it is the first one of this
 * run; in primary mode what comes in after the stop is nobody's concern any
 * more. @offset and @bytes say where; @bytes is 0 if that means nothing.
 * Returns true if it was the first.
 */
bool repl_state_fault(ReplState *s, ReplFault fault, int err,
                      int64_t offset, int64_t bytes);

/*
 * Set @errp to what went wrong, if anything did, or to why nothing is
 * protected. @node is the name to call the replication node in the message.
 */
void repl_state_get_error(const ReplState *s, const char *node, Error **errp);

#endif
