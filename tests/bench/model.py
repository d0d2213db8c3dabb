# The capacity model: what to expect of a pair, from a few numbers
#
# Dirty memory: in T seconds a guest that writes D MiB/s to random pages of a
# working set of W MiB leaves U = W (1 - exp(-D T / W)) MiB dirty.
#
# Pause: a checkpoint stops the PVM for P = P0 + U / C. P0 is that of an idle
# guest, C how many MiB that were dirtied in an epoch a capture takes in a
# second: most of them have been sent ahead, the others are copied.
#
# Latency: output that is equal on both sides leaves after L0 + rtt, L0 being
# what a request takes on this machine. One that differs waits for a
# checkpoint, which finds what was dirtied since the last one: L1 + U(t) / R +
# rtt, L1 being what it takes of an idle guest, R the rate at which dirty pages
# get into the secondary's memory, at most the link's bandwidth. With a part q
# of replies that differ the mean is in between, to which each client adds the
# P^2 / 2 (T + P) that the checkpoints of the period cost it on average. Output
# that is held until the next checkpoint, in periodic mode, waits for T / 2 and
# for that checkpoint: L1 + U(T) / R + rtt, too, L1 being the guest's when idle.
#
# Memory: the secondary holds what the guest has touched, and beside it what the
# SVM has changed since the last commit: S = M + Q + U(T), M being what a plain
# VM with this guest holds, Q what checkpoints need, pages that stay staged
# among it, at most 64 MiB.
#
# P0, C, R, L0, L1 and Q are a machine's. They are taken from few of a run's
# points; the others show what the model is worth. Here rtt is that of
# loopback, 0.
#
# SPDX-License-Identifier: GPL-2.0-or-later

import math
import statistics

from pause import REQUESTS_PER_S, working_set
from peers import PEERS
from render import Heading, Table, Text

MEM = 512                   # MiB
IDLE, LOADED = 'idle', 'dirty-64'
MODELLED = ('ours', 'ours-periodic')


def dirty_mib(rate, seconds, size):
    return size * (1 - math.exp(-rate * seconds / size))


def rate_of(mib, idle_ms, loaded_ms):
    """MiB/s, from what so many add to a time; None: nothing that is to see"""
    return 1000 * mib / (loaded_ms - idle_ms) if loaded_ms > idle_ms else None


class Model:
    """A peer on the machine of a run"""

    def __init__(self, book, peer):
        self.book = book
        self.peer = peer
        self.period = peer.period_ms / 1000
        # between two checkpoints that a client's replies force
        self.forced = min(self.period, 1 / REQUESTS_PER_S)
        points = [self.median(workload, metric) for metric in
                  ('primary_pause_ms', 'held_ms')
                  for workload in (IDLE, LOADED)]
        self.known = all(points)
        if self.known:
            self.pause, self.held = points[0], points[2]
            self.capture_rate = rate_of(self.dirty(LOADED, self.period),
                                        *points[:2])
            self.send_rate = rate_of(self.dirty(LOADED, self.forced),
                                     *points[2:])

    def median(self, workload, metric, bench='pause', peer=None):
        values = self.book.values.get((bench, workload, MEM, metric), {})
        found = list(values.get(peer or self.peer.name, {}).values())
        return statistics.median(found) if found else None

    def dirty(self, workload, seconds):
        rate = self.median(workload, 'dirtied_mib_per_s')
        return dirty_mib(rate, seconds, working_set(MEM))

    def after(self, idle_ms, workload, seconds, rate):
        """What takes @idle_ms idle, with what was dirtied in @seconds"""
        return idle_ms + (1000 * self.dirty(workload, seconds) / rate
                          if rate else 0)

    def pause_ms(self, workload):
        return self.after(self.pause, workload, self.period,
                          self.capture_rate)

    def held_ms(self, workload):
        """Replies that always differ, a few a second"""
        return self.after(self.held, workload, self.forced, self.send_rate)

    def secondary_mib(self, workload):
        alone = self.median(workload, 'primary_pss_mib', 'memory', 'plain')
        idle = self.median(IDLE, 'secondary_pss_mib', 'memory')
        base = self.median(IDLE, 'primary_pss_mib', 'memory', 'plain')
        return alone + idle - base + self.dirty(workload, self.period)

    def rows(self):
        """Cells: the workload; pause, latency, memory, predicted and seen"""
        for bench, workload, mem, metric in self.book.values:
            if (bench, mem, metric) != ('pause', MEM, 'primary_pause_ms'):
                continue
            seen = [self.median(workload, 'primary_pause_ms'),
                    self.median(workload, 'held_ms'),
                    self.median(workload, 'secondary_pss_mib', 'memory')]
            alone = self.median(workload, 'held_ms', peer='plain')
            if all(seen) and alone:
                told = [self.pause_ms(workload), self.held_ms(workload),
                        self.secondary_mib(workload)]
                yield [workload, f'{self.dirty(workload, self.period):.1f}',
                       *(f'{value:.1f}' for pair in zip(told, seen)
                         for value in pair)]


def report(book):
    """Blocks: the model beside what was measured"""
    yield Text('P0, C, L1 and R are taken from the workloads idle and '
               'dirty-64, Q from idle; everything else is predicted. Pause and '
               'held output in ms, memory of the secondary in MiB.')
    for name in MODELLED:
        model = Model(book, PEERS[name])
        if not model.known:
            continue
        yield Heading(3, name)
        rates = [f'{rate:.0f} MiB/s' if rate else 'not to be seen'
                 for rate in (model.capture_rate, model.send_rate)]
        yield Text(f'P0 {model.pause:.1f} ms, C {rates[0]}, L1 '
                   f'{model.held:.1f} ms, R {rates[1]}.')
        yield Table(['workload', 'dirty MiB', 'pause predicted', 'measured',
                     'held predicted', 'measured', 'memory predicted',
                     'measured'], list(model.rows()))
