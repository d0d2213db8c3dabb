/*
 * COLO: when pages are sent ahead
 *
 * A guest that dirties random pages of a working set, through an epoch.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "migration/colo/pace.h"

#define MIB_PAGES 256
#define ROOM (48 * MIB_PAGES)
#define ROUND_MS 50
#define LAST_MS 50
#define SENT_PER_MS 64      /* pages */

typedef struct Epoch {
    double ratio;           /* of pages sent to pages that were dirtied */
    uint64_t left;          /* pages, to the checkpoint */
    uint64_t most;          /* pages that were ever left */
    unsigned rounds;        /* that sent */
    unsigned final;         /* of these, after the period */
} Epoch;

typedef struct Guest {
    unsigned long *dirty;
    unsigned long *sent;
    unsigned long *ever;    /* dirtied in this epoch */
    uint64_t npages;
} Guest;

static void dirty(Guest *g, GRand *rand, uint64_t pages)
{
    while (pages--) {
        uint64_t page = g_rand_int_range(rand, 0, g->npages);

        set_bit(page, g->dirty);
        set_bit(page, g->ever);
    }
}

static uint64_t unsent(Guest *g)
{
    g_autofree unsigned long *map = bitmap_new(g->npages);

    bitmap_andnot(map, g->dirty, g->sent, g->npages);
    return bitmap_count_one(map, g->npages);
}

/* One round; returns how many pages it sent. */
static uint64_t go(Guest *g, ColoPace *p, int64_t now_ms, int64_t period_ms,
                   bool last)
{
    ColoPaceRound round = {
        .dirty = bitmap_count_one(g->dirty, g->npages),
        .unsent = unsent(g),
        .room = ROOM,
        .elapsed_ms = now_ms,
        .period_ms = period_ms,
        .last = last,
    };

    if (!colo_pace_due(p, &round)) {
        return 0;
    }
    bitmap_or(g->sent, g->sent, g->dirty, g->npages);
    bitmap_zero(g->dirty, g->npages);
    colo_pace_sent(p, round.dirty);
    return round.dirty;
}

/* @rate and @set in MiB a second and MiB; a round each @step_ms */
static Epoch run(unsigned rate, unsigned set, int64_t period_ms,
                 int64_t step_ms)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(1);
    uint64_t npages = set * MIB_PAGES, sent = 0;
    unsigned long *maps[3] = {
        bitmap_new(npages), bitmap_new(npages), bitmap_new(npages)
    };
    Guest g = { maps[0], maps[1], maps[2], npages };
    int64_t due = step_ms;
    ColoPace p = { 0 };
    Epoch e = { 0 };

    colo_pace_restart(&p);
    for (int64_t now = ROUND_MS; now < period_ms; now += ROUND_MS) {
        bool last = now >= period_ms - LAST_MS;
        uint64_t n;

        dirty(&g, rand, rate * MIB_PAGES * ROUND_MS / 1000);
        e.most = MAX(e.most, bitmap_count_one(g.dirty, npages));
        if (now < due && !last) {
            continue;
        }
        n = go(&g, &p, now, period_ms, last);
        due = now + colo_pace_interval(&p, step_ms);
        sent += n;
        e.rounds += n > 0;
    }
    dirty(&g, rand, rate * MIB_PAGES * ROUND_MS / 1000);
    for (; colo_pace_once_more(&p); e.final++) {
        uint64_t n = go(&g, &p, period_ms + e.final, period_ms, true);

        dirty(&g, rand, rate * MIB_PAGES * n / SENT_PER_MS / 1000);
        sent += n;
    }
    e.left = bitmap_count_one(g.dirty, npages);
    e.ratio = (sent + e.left) / (double)bitmap_count_one(g.ever, npages);
    g_free(maps[0]);
    g_free(maps[1]);
    g_free(maps[2]);
    return e;
}

static void check(unsigned rate, unsigned set, double ratio, unsigned left_mib)
{
    Epoch e = run(rate, set, 2000, 125);

    g_test_message("%u MiB/s over %u MiB: %.2f, left %" PRIu64 ", at most %"
                   PRIu64 ", %u rounds and %u", rate, set, e.ratio, e.left,
                   e.most, e.rounds, e.final);
    g_assert_cmpfloat(e.ratio, <=, ratio);
    g_assert_cmpint(e.left, <=, left_mib * MIB_PAGES);
    g_assert_cmpint(e.most, <=, ROOM);
}

/* Little goes twice, little is left, and never more than has room. */
static void test_random(void)
{
    check(1, 192, 1.05, 1);
    check(16, 192, 1.1, 1);
    check(64, 192, 1.27, 1);
    check(128, 192, 1.75, 4);
}

/* What is written all the time waits for the end. */
static void test_hot(void)
{
    Epoch e = run(64, 10, 2000, 125);

    g_assert_cmpint(e.rounds, <=, 2);
    g_assert_cmpint(e.left, <=, 4 * MIB_PAGES);
    g_assert_cmpint(e.most, <=, 10 * MIB_PAGES);
}

/* A guest that can't be kept up with is not slowed down. */
static void test_too_fast(void)
{
    g_assert_cmpint(run(1000, 192, 2000, 125).rounds, ==, 0);
    /* it is looked at again now and then */
    g_assert_cmpint(run(1000, 192, 9000, 200).rounds, <=, 4);
    g_assert_cmpint(run(1000, 192, 9000, 200).rounds, >=, 2);
    g_assert_cmpint(run(200, 192, 2000, 125).rounds, >=, 6);
}

/* The next of an epoch's rounds, 125 ms after the last */
static bool due(ColoPace *p, uint64_t dirty, uint64_t unsent, bool last)
{
    ColoPaceRound round = {
        dirty, unsent, ROOM, p->then_ms + 125, 2000, last
    };

    return colo_pace_due(p, &round);
}

/* An epoch whose first 125 ms dirty so many pages: are they sent? */
static bool begins(ColoPace *p, uint64_t dirty)
{
    colo_pace_restart(p);
    return due(p, dirty, dirty, false);
}

/* Nor is it in the next epoch, unless it has become much slower. */
static void test_still_too_fast(void)
{
    const uint64_t limit = ROOM * 125 / COLO_PACE_FAST_MS;
    ColoPace p = { 0 };

    g_assert_true(begins(&p, limit * 3 / 4));
    g_assert_false(begins(&p, limit + 1));
    g_assert_false(begins(&p, limit * 3 / 4));
    g_assert_true(begins(&p, limit / 2));
    g_assert_true(begins(&p, limit * 3 / 4));
}

/* Not even with much memory and a long period does it go ten times. */
static void test_spread(void)
{
    Epoch e = run(100, 100, 20000, 200);

    g_assert_cmpint(e.rounds, >=, 6);
    g_assert_cmpint(e.rounds, <=, COLO_PACE_AGAIN + 3);
}

static void test_few(void)
{
    ColoPace p = { 0 };

    colo_pace_restart(&p);
    g_assert_false(due(&p, 0, 0, true));
    g_assert_false(due(&p, 200, 200, false));
    g_assert_true(due(&p, 300, 300, false));
    g_assert_true(due(&p, 300, 280, false));
    g_assert_false(due(&p, 300, 200, false));
    g_assert_true(due(&p, 300, 200, true));
}

/* What has come since the last round will come again. */
static void test_growing(void)
{
    ColoPace p = { 0 };

    colo_pace_restart(&p);
    g_assert_false(due(&p, ROOM / 2, 0, false));
    g_assert_false(due(&p, ROOM / 2 + 100, 0, false));
    g_assert_true(due(&p, ROOM * 3 / 4 + 100, 0, false));
    colo_pace_sent(&p, ROOM * 3 / 4 + 100);
    g_assert_false(due(&p, ROOM / 2, 0, false));
    g_assert_true(due(&p, ROOM - 10, 0, false));
}

/* A round after the period that sends all; is another one worth it? */
static bool once_more_after(ColoPace *p, uint64_t dirty)
{
    ColoPaceRound round = { dirty, dirty, ROOM, 2000, 2000, true };

    g_assert_true(colo_pace_due(p, &round));
    colo_pace_sent(p, dirty);
    return colo_pace_once_more(p);
}

/* The last round of a period, with so many pages dirty */
static ColoPace last_round(uint64_t dirty, uint64_t sent)
{
    ColoPace p = { .skip = 2 };

    colo_pace_restart(&p);
    g_assert_true(due(&p, dirty, dirty, true));
    colo_pace_sent(&p, sent);
    return p;
}

/* What comes while a round sends is sent as long as it becomes much less. */
static void test_final(void)
{
    ColoPace p = last_round(3000, 3000);

    g_assert_true(colo_pace_once_more(&p));
    g_assert_true(once_more_after(&p, 1400));
    g_assert_false(once_more_after(&p, 300));
    p = last_round(3000, 3000);
    g_assert_false(once_more_after(&p, 1600));
    /* all that max-bandwidth lets through has gone */
    p = last_round(3000, 1000);
    g_assert_false(colo_pace_once_more(&p));
    /* such rounds come soon after one another, of which the next epoch's
     * interval is to know nothing */
    p = last_round(400, 400);
    g_assert_true(colo_pace_once_more(&p));
    once_more_after(&p, 300);
    g_assert_cmpint(p.skip, ==, last_round(400, 400).skip);
    /* nor is an idle guest looked at once more */
    colo_pace_restart(&p);
    g_assert_false(due(&p, 100, 100, true));
    g_assert_false(colo_pace_once_more(&p));
}

static int64_t interval_after(ColoPace *p, uint64_t dirty, unsigned rounds)
{
    while (rounds--) {
        if (due(p, dirty, dirty, false)) {
            colo_pace_sent(p, dirty);
        } else {
            p->left = 0;
        }
    }
    return colo_pace_interval(p, 100);
}

/* A guest that does little is not looked at often, unless it does more. */
static void test_interval(void)
{
    ColoPace p = { 0 };

    colo_pace_restart(&p);
    g_assert_cmpint(colo_pace_interval(&p, 100), ==, 100);
    g_assert_cmpint(interval_after(&p, 10, 1), ==, 200);
    g_assert_cmpint(interval_after(&p, 10, 10), ==, 400);
    colo_pace_restart(&p);
    g_assert_cmpint(colo_pace_interval(&p, 100), ==, 400);
    g_assert_cmpint(interval_after(&p, 2000, 1), ==, 200);
    g_assert_cmpint(interval_after(&p, 2000, 1), ==, 100);
    g_assert_cmpint(interval_after(&p, 600, 10), ==, 100);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/colo/pace/random", test_random);
    g_test_add_func("/colo/pace/hot", test_hot);
    g_test_add_func("/colo/pace/spread", test_spread);
    g_test_add_func("/colo/pace/too-fast", test_too_fast);
    g_test_add_func("/colo/pace/still-too-fast", test_still_too_fast);
    g_test_add_func("/colo/pace/few", test_few);
    g_test_add_func("/colo/pace/growing", test_growing);
    g_test_add_func("/colo/pace/final", test_final);
    g_test_add_func("/colo/pace/interval", test_interval);
    return g_test_run();
}
