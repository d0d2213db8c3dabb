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

#define COLO_STATS_PAUSES 1024      /* pauses the median is taken of */

/* What is known of one checkpoint once it is committed */
typedef struct ColoCheckpointStats {
    uint64_t epoch;
    ColoCheckpointReason reason;
    uint64_t pages;
    uint64_t zero_pages;
    uint64_t pages_ahead;           /* of both, sent while the PVM ran */
    uint64_t bytes;
    uint64_t pause;                 /* of the PVM, us */
    ColoPhases phases;              /* us */
} ColoCheckpointStats;

typedef struct ColoStats {
    ColoCheckpointStats last;
    uint64_t by_reason[COLO_CHECKPOINT_REASON__MAX];
    uint64_t bytes_by_reason[COLO_CHECKPOINT_REASON__MAX];
    uint64_t pages;
    uint64_t zero_pages;
    uint64_t pages_ahead;
    uint64_t bytes;
    ColoPhases phases;              /* us */
    uint64_t pause_max;             /* us */
    uint64_t pauses[COLO_STATS_PAUSES]; /* us; a ring */
    uint64_t n_pauses;              /* ever */
} ColoStats;

/* Count the checkpoint @c. */
void colo_stats_add(ColoStats *s, const ColoCheckpointStats *c);

/* The median of the last pauses in microseconds, 0 if there was none. */
uint64_t colo_stats_median(const ColoStats *s);

/* As QMP returns it; the caller frees it. */
ColoStatistics *colo_stats_query(const ColoStats *s);

#endif
