/*
 * COLO: what the checkpoints did so far
 *
 * Numbers only, no locks: the caller serialises.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MIGRATION_COLO_STATS_H
#define MIGRATION_COLO_STATS_H

#include "qapi/qapi-types-colo.h"

#define COLO_STATS_TIMES 1024       /* that quantiles are taken of */

/* What is known of one checkpoint once it is committed; see ColoCheckpoint */
typedef struct ColoCheckpointStats {
    uint64_t epoch;
    ColoCheckpointReason reason;
    uint64_t pages;
    uint64_t zero_pages;
    uint64_t pages_ahead;           /* of both, sent while the PVM ran */
    uint64_t bytes;
    uint64_t pause;                 /* of the PVM, us */
    uint64_t held;                  /* its output, us */
    ColoPhases phases;              /* us */
} ColoCheckpointStats;

/* Times of checkpoints, us */
typedef struct ColoStatsTimes {
    uint64_t ring[COLO_STATS_TIMES];
    uint64_t n;                     /* ever */
    uint64_t max;
} ColoStatsTimes;

typedef struct ColoStats {
    ColoCheckpointStats last;
    uint64_t by_reason[COLO_CHECKPOINT_REASON__MAX];
    uint64_t bytes_by_reason[COLO_CHECKPOINT_REASON__MAX];
    uint64_t pages;
    uint64_t zero_pages;
    uint64_t pages_ahead;
    uint64_t bytes;
    ColoPhases phases;              /* us */
    ColoStatsTimes pause;
    ColoStatsTimes held;
} ColoStats;

/* Count the checkpoint @c. */
void colo_stats_add(ColoStats *s, const ColoCheckpointStats *c);

/* @c as QMP has it; the caller frees it. */
ColoCheckpoint *colo_stats_checkpoint(const ColoCheckpointStats *c);

/* As QMP returns it; the caller frees it. */
ColoStatistics *colo_stats_query(const ColoStats *s);

#endif
