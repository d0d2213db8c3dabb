/*
 * COLO: what the checkpoints did so far
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "stats.h"

static void add_phases(ColoPhases *sum, const ColoPhases *p)
{
    sum->stop += p->stop;
    sum->sync += p->sync;
    sum->device += p->device;
    sum->copy += p->copy;
    sum->resume += p->resume;
    sum->send += p->send;
    sum->commit += p->commit;
    sum->merge += p->merge;
    sum->release += p->release;
}

static void add_time(ColoStatsTimes *t, uint64_t us)
{
    t->ring[t->n++ % COLO_STATS_TIMES] = us;
    t->max = MAX(t->max, us);
}

void colo_stats_add(ColoStats *s, const ColoCheckpointStats *c)
{
    s->last = *c;
    s->by_reason[c->reason]++;
    s->bytes_by_reason[c->reason] += c->bytes;
    s->pages += c->pages;
    s->zero_pages += c->zero_pages;
    s->pages_ahead += c->pages_ahead;
    s->bytes += c->bytes;
    add_phases(&s->phases, &c->phases);
    add_time(&s->pause, c->pause);
    add_time(&s->held, c->held);
}

static int compare_u64(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

static ColoTimes *query_times(const ColoStatsTimes *t)
{
    ColoTimes *q = g_new0(ColoTimes, 1);
    size_t n = MIN(t->n, COLO_STATS_TIMES);
    g_autofree uint64_t *sorted = g_memdup2(t->ring, n * sizeof(sorted[0]));

    if (n) {
        qsort(sorted, n, sizeof(sorted[0]), compare_u64);
        q->last = t->ring[(t->n - 1) % COLO_STATS_TIMES];
        q->median = n % 2 ? sorted[n / 2] :
                            (sorted[n / 2 - 1] + sorted[n / 2]) / 2;
        q->p99 = sorted[DIV_ROUND_UP(n * 99, 100) - 1];
        q->max = t->max;
    }
    return q;
}

ColoCheckpoint *colo_stats_checkpoint(const ColoCheckpointStats *c)
{
    ColoCheckpoint *q = g_new(ColoCheckpoint, 1);

    *q = (ColoCheckpoint) {
        .epoch = c->epoch,
        .reason = c->reason,
        .pages = c->pages,
        .zero_pages = c->zero_pages,
        .pages_ahead = c->pages_ahead,
        .bytes = c->bytes,
        .pause = c->pause,
        .held = c->held,
        .phases = g_memdup2(&c->phases, sizeof(c->phases)),
    };
    return q;
}

ColoStatistics *colo_stats_query(const ColoStats *s)
{
    ColoStatistics *q = g_new0(ColoStatistics, 1);
    ColoReasonCountList **tail = &q->checkpoints;

    q->epoch = s->last.epoch;
    q->pages = s->pages;
    q->zero_pages = s->zero_pages;
    q->pages_ahead = s->pages_ahead;
    q->bytes = s->bytes;
    q->pause = query_times(&s->pause);
    q->held = query_times(&s->held);
    q->last = s->pause.n ? colo_stats_checkpoint(&s->last) : NULL;
    q->phases_total = g_memdup2(&s->phases, sizeof(s->phases));
    for (int i = 0; i < COLO_CHECKPOINT_REASON__MAX; i++) {
        if (s->by_reason[i]) {
            ColoReasonCount *count = g_new0(ColoReasonCount, 1);

            count->reason = i;
            count->count = s->by_reason[i];
            count->bytes = s->bytes_by_reason[i];
            QAPI_LIST_APPEND(tail, count);
        }
    }
    return q;
}
