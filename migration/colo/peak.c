/*
 * COLO: how much of a buffer the last checkpoints have needed
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "peak.h"

void colo_peak_need(ColoPeak *p, uint64_t pages)
{
    p->needed = MAX(p->needed, pages);
    p->populated = MAX(p->populated, pages);
}

bool colo_peak_done(ColoPeak *p, uint64_t *first, uint64_t *end)
{
    if (++p->checkpoints < COLO_PEAK_CHECKPOINTS) {
        return false;
    }
    *first = p->needed;
    *end = p->populated;
    p->populated = p->needed;
    p->needed = 0;
    p->checkpoints = 0;
    return *first < *end;
}
