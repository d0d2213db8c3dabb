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
    s->pause_max = MAX(s->pause_max, c->pause);
    s->pauses[s->n_pauses++ % COLO_STATS_PAUSES] = c->pause;
}

static int compare_u64(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

uint64_t colo_stats_median(const ColoStats *s)
{
    size_t n = MIN(s->n_pauses, COLO_STATS_PAUSES);
    g_autofree uint64_t *sorted = NULL;

    if (!n) {
        return 0;
    }
    sorted = g_memdup2(s->pauses, n * sizeof(sorted[0]));
    qsort(sorted, n, sizeof(sorted[0]), compare_u64);
    return n % 2 ? sorted[n / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2;
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
    q->pause_last = s->last.pause;
    q->pause_max = s->pause_max;
    q->pause_median = colo_stats_median(s);
    q->phases_last = g_memdup2(&s->last.phases, sizeof(s->last.phases));
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
