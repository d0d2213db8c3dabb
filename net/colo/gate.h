/*
 * COLO proxy: which frames of a stream belong to the running epoch
 *
 * The streams are not ordered among themselves, nor with the checkpoint: the
 * frames of an epoch may come before this side runs it, or still come when
 * it does no more. The gate decides by the stream's markers (invariant 3 of
 * the design). Plain data without locks.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef NET_COLO_GATE_H
#define NET_COLO_GATE_H

typedef enum ColoGateVerdict {
    /* of the running epoch, or COLO is not active */
    COLO_GATE_TAKE,
    /* of an epoch that is over, or of none while COLO is active */
    COLO_GATE_DISCARD,
    /* of an epoch this side does not run yet */
    COLO_GATE_WAIT,
} ColoGateVerdict;

typedef struct ColoGate {
    /* between colo_gate_start() and colo_gate_stop() */
    bool active;
    /* an epoch runs on this side, @running */
    bool runs;
    uint64_t running;
    /* the connection had a marker, the last with epoch @marker */
    bool marked;
    uint64_t marker;
} ColoGate;

/* COLO starts: nothing is taken but behind a marker of the running epoch. */
void colo_gate_start(ColoGate *gate);

/*
 * COLO ends: all is taken again, but on a connection that carried markers,
 * whose sender has not noticed the end yet.
 */
void colo_gate_stop(ColoGate *gate);

/* The stream closed or broke: the next frames have no epoch. */
void colo_gate_restart(ColoGate *gate);

/* A marker with @epoch came: what follows belongs to it. */
void colo_gate_marker(ColoGate *gate, uint64_t epoch);

/* This side runs @epoch from now on. */
void colo_gate_run(ColoGate *gate, uint64_t epoch);

/* What to do with a frame that comes now. */
ColoGateVerdict colo_gate_verdict(const ColoGate *gate);

#endif
