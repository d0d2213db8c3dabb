/*
 * COLO: for people at the monitor
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/qapi-commands-migration.h"
#include "qemu/cutils.h"
#include "monitor/hmp.h"
#include "monitor/monitor.h"

#define MS(us) ((us) / 1000.0)

static void print_times(Monitor *mon, const char *name, const ColoTimes *t)
{
    monitor_printf(mon, "%-8s %10.3f %10.3f %10.3f %10.3f\n", name,
                   MS(t->last), MS(t->median), MS(t->p99), MS(t->max));
}

static void print_phases(Monitor *mon, const ColoStatistics *s, uint64_t count)
{
    const ColoPhases *last = s->last->phases, *total = s->phases_total;
    const struct {
        const char *name;
        uint64_t last;
        uint64_t total;
    } phases[] = {
        { "stop", last->stop, total->stop },
        { "sync", last->sync, total->sync },
        { "device", last->device, total->device },
        { "copy", last->copy, total->copy },
        { "resume", last->resume, total->resume },
        { "send", last->send, total->send },
        { "commit", last->commit, total->commit },
        { "merge", last->merge, total->merge },
        { "release", last->release, total->release },
    };

    monitor_printf(mon, "%-8s %10s %10s\n", "phase/ms", "last", "mean");
    for (int i = 0; i < ARRAY_SIZE(phases); i++) {
        monitor_printf(mon, "%-8s %10.3f %10.3f\n", phases[i].name,
                       MS(phases[i].last), MS(phases[i].total) / count);
    }
}

static void print_stats(Monitor *mon, const ColoStatistics *s)
{
    uint64_t count = 0;

    monitor_printf(mon, "epoch: %" PRIu64 "\ncheckpoints:", s->epoch);
    for (const ColoReasonCountList *l = s->checkpoints; l; l = l->next) {
        monitor_printf(mon, " %s %" PRIu64,
                       ColoCheckpointReason_str(l->value->reason),
                       l->value->count);
        count += l->value->count;
    }
    monitor_printf(mon, "\npages: %" PRIu64 " with content, %" PRIu64
                   " zero; %" PRIu64 " of both sent ahead\nbytes: %" PRIu64
                   "\n", s->pages, s->zero_pages, s->pages_ahead, s->bytes);
    if (s->last) {
        monitor_printf(mon, "%-8s %10s %10s %10s %10s\n", "time/ms", "last",
                       "median", "p99", "max");
        print_times(mon, "pause", s->pause);
        print_times(mon, "held", s->held);
        print_phases(mon, s, count);
    }
}

void hmp_info_colo(Monitor *mon, const QDict *qdict)
{
    g_autoptr(COLOStatus) status = qmp_query_colo_status(NULL);

    monitor_printf(mon, "mode: %s\nlast mode: %s\nreason: %s\n",
                   COLOMode_str(status->mode),
                   COLOMode_str(status->last_mode),
                   COLOExitReason_str(status->reason));
    if (status->stats) {
        print_stats(mon, status->stats);
    }
    for (ColoMemoryBlockList *l = status->memory; l; l = l->next) {
        g_autofree char *size = size_to_str(l->value->size);

        monitor_printf(mon, "memory: %s, %s, %s\n", l->value->name, size,
                       ColoMemoryKind_str(l->value->kind));
    }
}
