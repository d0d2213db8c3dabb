/*
 * COLO: what the checkpoints did so far
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "migration/colo/stats.h"

/* A checkpoint that can be told from others by all of its numbers */
static ColoCheckpointStats nth(uint64_t n)
{
    return (ColoCheckpointStats) {
        .epoch = n,
        .reason = n % 2 ? COLO_CHECKPOINT_REASON_TCP :
                          COLO_CHECKPOINT_REASON_PERIOD,
        .pages = 10 * n,
        .zero_pages = n + 1,
        .pages_ahead = 5 * n,
        .bytes = 1000 * n,
        .pause = 100 * n,
        .held = 300 * n,
        .phases = { .stop = n, .release = 2 * n },
    };
}

static void add(ColoStats *s, uint64_t n)
{
    ColoCheckpointStats c = nth(n);

    colo_stats_add(s, &c);
}

static void test_none(void)
{
    g_autofree ColoStats *s = g_new0(ColoStats, 1);
    g_autoptr(ColoStatistics) q = colo_stats_query(s);

    g_assert_cmpint(q->epoch, ==, 0);
    g_assert_null(q->last);
    g_assert_null(q->checkpoints);
    g_assert_cmpint(q->pause->median, ==, 0);
    g_assert_cmpint(q->held->max, ==, 0);
}

static void test_sums(void)
{
    g_autofree ColoStats *s = g_new0(ColoStats, 1);
    g_autoptr(ColoStatistics) q = NULL;
    ColoReasonCount *count;

    for (int n = 1; n <= 4; n++) {
        add(s, n);
    }
    q = colo_stats_query(s);
    g_assert_cmpint(q->epoch, ==, 4);
    g_assert_cmpint(q->pages, ==, 100);
    g_assert_cmpint(q->zero_pages, ==, 14);
    g_assert_cmpint(q->pages_ahead, ==, 50);
    g_assert_cmpint(q->bytes, ==, 10000);
    g_assert_cmpint(q->phases_total->stop, ==, 10);
    g_assert_cmpint(q->phases_total->release, ==, 20);
    count = q->checkpoints->value;
    g_assert_cmpint(count->reason, ==, COLO_CHECKPOINT_REASON_PERIOD);
    g_assert_cmpint(count->count, ==, 2);
    g_assert_cmpint(count->bytes, ==, 6000);
    count = q->checkpoints->next->value;
    g_assert_cmpint(count->reason, ==, COLO_CHECKPOINT_REASON_TCP);
    g_assert_cmpint(count->bytes, ==, 4000);
    g_assert_null(q->checkpoints->next->next);
}

static void test_last(void)
{
    g_autofree ColoStats *s = g_new0(ColoStats, 1);
    g_autoptr(ColoStatistics) q = NULL;

    add(s, 8);
    add(s, 3);
    q = colo_stats_query(s);
    g_assert_cmpint(q->last->epoch, ==, 3);
    g_assert_cmpint(q->last->reason, ==, COLO_CHECKPOINT_REASON_TCP);
    g_assert_cmpint(q->last->pages, ==, 30);
    g_assert_cmpint(q->last->zero_pages, ==, 4);
    g_assert_cmpint(q->last->pages_ahead, ==, 15);
    g_assert_cmpint(q->last->bytes, ==, 3000);
    g_assert_cmpint(q->last->pause, ==, 300);
    g_assert_cmpint(q->last->held, ==, 900);
    g_assert_cmpint(q->last->phases->release, ==, 6);
    g_assert_cmpint(q->pause->last, ==, 300);
    g_assert_cmpint(q->pause->max, ==, 800);
    g_assert_cmpint(q->held->last, ==, 900);
}

/* Quantiles of @n checkpoints, the @k-th with a pause of 100 * k us */
static void check_times(uint64_t n, uint64_t median, uint64_t p99,
                        uint64_t max)
{
    g_autofree ColoStats *s = g_new0(ColoStats, 1);
    g_autoptr(ColoStatistics) q = NULL;

    for (uint64_t k = 1; k <= n; k++) {
        add(s, k);
    }
    q = colo_stats_query(s);
    g_assert_cmpint(q->pause->median, ==, median);
    g_assert_cmpint(q->pause->p99, ==, p99);
    g_assert_cmpint(q->pause->max, ==, max);
    g_assert_cmpint(q->held->p99, ==, 3 * p99);
}

static void test_quantiles(void)
{
    check_times(1, 100, 100, 100);
    check_times(2, 150, 200, 200);
    check_times(100, 5050, 9900, 10000);
    check_times(1000, 50050, 99000, 100000);
    /* only the last 1024 count, but for the longest ever */
    check_times(2024, 151250, 201400, 202400);
}

/* The longest is not forgotten. */
static void test_max(void)
{
    g_autofree ColoStats *s = g_new0(ColoStats, 1);
    g_autoptr(ColoStatistics) q = NULL;

    add(s, 500);
    for (int i = 0; i < 2 * COLO_STATS_TIMES; i++) {
        add(s, 1);
    }
    q = colo_stats_query(s);
    g_assert_cmpint(q->pause->max, ==, 50000);
    g_assert_cmpint(q->pause->p99, ==, 100);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/colo/stats/none", test_none);
    g_test_add_func("/colo/stats/sums", test_sums);
    g_test_add_func("/colo/stats/last", test_last);
    g_test_add_func("/colo/stats/quantiles", test_quantiles);
    g_test_add_func("/colo/stats/max", test_max);
    return g_test_run();
}
