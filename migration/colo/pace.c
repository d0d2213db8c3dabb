/*
 * COLO: when pages are sent ahead
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "pace.h"

/* Fewer pages than these are not worth a message. */
#define WORTH_IT 256

/* So many may come between two rounds, and at most so many are left out. */
#define LITTLE 1024
#define SKIP_MAX 3

/* After so many it is to be seen how fast they come again. */
#define MUCH (4 * LITTLE)

/* Among so many pages one that goes again is no waste. */
#define FEW 10

void colo_pace_restart(ColoPace *p)
{
    *p = (ColoPace) { .skip = p->skip, .fast = p->fast };
}

/*
 * Rounds that send much again are spread over the epoch: a page that is hot
 * all the time does not go more often in a longer one.
 */
static bool may_again(const ColoPace *p, const ColoPaceRound *now)
{
    return p->again * now->period_ms <
           (COLO_PACE_AGAIN - 1) * now->elapsed_ms + now->period_ms;
}

/*
 * How fast the guest is shows where little was dirty: what is dirtied again
 * does not. One that was too fast must be half as fast to be sent ahead again,
 * for in an epoch's first round it has had to share the host with a commit.
 */
static void measure(ColoPace *p, const ColoPaceRound *now, uint64_t grown)
{
    int64_t ms = MAX(now->elapsed_ms - p->then_ms, 1);

    if (p->left < now->room / 4) {
        p->fast = grown * COLO_PACE_FAST_MS >
                  now->room * ms / (p->fast ? 2 : 1);
        p->fast_since_ms = now->elapsed_ms;
    } else if (now->elapsed_ms - p->fast_since_ms > COLO_PACE_FAST_FOR_MS) {
        p->fast = false;
    }
}

/* One more than the last time, if even then there is little. */
static unsigned next_skip(const ColoPace *p, uint64_t grown)
{
    return grown > LITTLE ? p->skip / 2 :
           grown * (p->skip + 2) > LITTLE * (p->skip + 1) ? p->skip :
           MIN(p->skip + 1, SKIP_MAX);
}

bool colo_pace_due(ColoPace *p, const ColoPaceRound *now)
{
    uint64_t again = now->dirty - MIN(now->dirty, now->unsent);
    uint64_t grown = now->dirty - MIN(now->dirty, p->left);
    bool due;

    if (now->elapsed_ms < now->period_ms) {
        measure(p, now, grown);
        p->skip = next_skip(p, grown);
    } else {
        /* too soon after the one before it to tell anything */
        p->final++;
    }
    p->before = p->dirty;
    p->dirty = now->dirty;
    p->left = now->dirty;
    p->then_ms = now->elapsed_ms;
    if (now->dirty < WORTH_IT || p->fast) {
        return false;
    }
    if (again * FEW <= now->dirty) {
        return true;
    }
    due = now->last || (now->dirty + grown > now->room && may_again(p, now));
    p->again += due;
    return due;
}

void colo_pace_sent(ColoPace *p, uint64_t pages)
{
    p->left -= MIN(p->left, pages);
    if (pages > MUCH) {
        p->skip = 0;
    }
}

bool colo_pace_once_more(const ColoPace *p)
{
    return !p->fast && p->final < COLO_PACE_FINAL &&
           p->dirty >= WORTH_IT && p->left < WORTH_IT &&
           (!p->final || p->dirty * 2 < p->before);
}

int64_t colo_pace_interval(const ColoPace *p, int64_t round_ms)
{
    return (p->skip + 1) * round_ms;
}
