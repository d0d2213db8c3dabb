/*
 * COLO: when pages are sent ahead
 *
 * What the PVM dirties is sent while it runs, so that little is left when it
 * stops, be that at the end of the period or, if the guests' output differs, at
 * any other time. A page that is dirtied again has been sent in vain. So what
 * is dirty goes as long as most of it goes for the first time; or if it would
 * soon be more than can be copied while the PVM stands still; or if the PVM is
 * about to stop. What comes meanwhile is sent when the period is over, and once
 * more if it has become much less: each time takes less long, so less comes. A
 * guest that dirties the room in no time is left to the checkpoint: the sending
 * would not keep up with it, and slow it down.
 *
 * Numbers only, no locks: the caller serialises.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MIGRATION_COLO_PACE_H
#define MIGRATION_COLO_PACE_H

/* So often in an epoch pages go though many of them went before. */
#define COLO_PACE_AGAIN 8

/* So many rounds more there are when the period is over. */
#define COLO_PACE_FINAL 2

/* A guest that dirties the room in so many ms is too fast. */
#define COLO_PACE_FAST_MS 100

/* For so many ms it is taken to be; then it may have become slower. */
#define COLO_PACE_FAST_FOR_MS 2000

typedef struct ColoPace {
    uint64_t left;          /* pages that were dirty after the last round */
    uint64_t dirty;         /* pages that were, before that round */
    uint64_t before;        /* and before the one before it */
    unsigned final;         /* rounds of this epoch after its period */
    int64_t then_ms;        /* when the last round was, in the epoch */
    unsigned again;         /* rounds of this epoch that sent pages again */
    bool fast;
    int64_t fast_since_ms;  /* when the guest was found to be */
    unsigned skip;          /* rounds in which nothing much is to be seen */
} ColoPace;

/* A round of an epoch, in which it is decided. */
typedef struct ColoPaceRound {
    uint64_t dirty;         /* pages */
    uint64_t unsent;        /* of these pages, not sent in this epoch */
    uint64_t room;          /* pages that can be copied at the stop */
    int64_t elapsed_ms;     /* since the epoch began */
    int64_t period_ms;      /* how long it lasts if nothing ends it */
    bool last;              /* it is about to end */
} ColoPaceRound;

/*
 * A new epoch begins, all of whose pages are clean. What is known of the guest,
 * at first nothing (all 0), is kept.
 */
void colo_pace_restart(ColoPace *p);

/* Are all dirty pages to be sent in the round @now? */
bool colo_pace_due(ColoPace *p, const ColoPaceRound *now);

/* @pages of them were sent. */
void colo_pace_sent(ColoPace *p, uint64_t pages);

/*
 * The period is over: is it worth a round, a last one, before the checkpoint?
 * To be asked again after that.
 */
bool colo_pace_once_more(const ColoPace *p);

/*
 * How many ms after the last round the next one is due, @round_ms being the
 * least: to look at the dirty log slows the guest down, so a guest that dirties
 * little is looked at less often.
 */
int64_t colo_pace_interval(const ColoPace *p, int64_t round_ms);

#endif
