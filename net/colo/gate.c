/*
 * COLO proxy: which frames of a stream belong to the running epoch
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "net/colo/gate.h"

void colo_gate_start(ColoGate *gate)
{
    gate->active = true;
    gate->runs = false;
}

void colo_gate_stop(ColoGate *gate)
{
    gate->active = false;
}

void colo_gate_restart(ColoGate *gate)
{
    gate->marked = false;
}

void colo_gate_marker(ColoGate *gate, uint64_t epoch)
{
    gate->marked = true;
    gate->marker = epoch;
}

void colo_gate_run(ColoGate *gate, uint64_t epoch)
{
    gate->runs = true;
    gate->running = epoch;
}

ColoGateVerdict colo_gate_verdict(const ColoGate *gate)
{
    if (!gate->active) {
        return gate->marked ? COLO_GATE_DISCARD : COLO_GATE_TAKE;
    }
    if (!gate->marked) {
        return COLO_GATE_DISCARD;
    }
    if (!gate->runs || gate->marker > gate->running) {
        return COLO_GATE_WAIT;
    }
    return gate->marker == gate->running ? COLO_GATE_TAKE : COLO_GATE_DISCARD;
}
