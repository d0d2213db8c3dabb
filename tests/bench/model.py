# The capacity model: what to expect of a pair, from a few numbers
#
# Dirty memory: in T seconds a guest that writes D MiB/s to random pages of a
# working set of W MiB leaves U = W (1 - exp(-D T / W)) MiB dirty.
#
# Pause: a checkpoint stops the PVM for P = P0 + U / R + rtt. P0 is that of an
# idle guest, R the rate at which dirty pages get into the secondary's memory,
# at most the link's bandwidth.
#
# Latency: output that is equal on both sides leaves after L0 + rtt, L0 being
# what a request takes on this machine. One that differs waits for a
# checkpoint, which finds what was dirtied since the last one: L1 + U(t) / R +
# rtt, L1 being what it takes of an idle guest. With a part q of replies that
# differ the mean is in between, to which each client adds the P^2 / 2 (T + P)
# that the checkpoints of the period cost it on average. Output that is held
# until the next checkpoint, in periodic mode, waits for T / 2 + P.
#
# Memory: the secondary holds what the guest has touched twice: S = 2 M - Q, M
# being what a plain VM with this guest holds. Q is what QEMU needs for itself
# less the pages that stay staged, at most 64 MiB.
#
# P0, R, L0, L1 and Q are a machine's. They are taken from few of a run's
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


class Model:
    """A peer on the machine of a run"""

    def __init__(self, book, peer):
        self.book = book
        self.peer = peer
        self.period = peer.period_ms / 1000
        self.idle = self.median(IDLE, 'primary_pause_ms')
        loaded = self.median(LOADED, 'primary_pause_ms')
        self.known = bool(self.idle and loaded and loaded > self.idle)
        if self.known:
            self.rate = 1000 * self.dirty(LOADED, self.period) / (loaded -
                                                                  self.idle)

    def median(self, workload, metric, bench='pause', peer=None):
        values = self.book.values.get((bench, workload, MEM, metric), {})
        found = list(values.get(peer or self.peer.name, {}).values())
        return statistics.median(found) if found else None

    def dirty(self, workload, seconds):
        rate = self.median(workload, 'dirtied_mib_per_s')
        return dirty_mib(rate, seconds, working_set(MEM))

    def pause_ms(self, workload, seconds):
        return self.idle + 1000 * self.dirty(workload, seconds) / self.rate

    def held_ms(self, workload):
        """Replies that always differ, a few a second."""
        if not self.peer.proxy:
            return 500 * self.period + self.pause_ms(workload, self.period)
        since = min(self.period, 1 / REQUESTS_PER_S)
        return self.median(IDLE, 'held_ms') + \
            1000 * self.dirty(workload, since) / self.rate

    def secondary_mib(self, workload):
        alone = self.median(workload, 'primary_pss_mib', 'memory', 'plain')
        idle = self.median(IDLE, 'secondary_pss_mib', 'memory')
        base = self.median(IDLE, 'primary_pss_mib', 'memory', 'plain')
        return 2 * alone - (2 * base - idle)

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
                told = [self.pause_ms(workload, self.period),
                        self.held_ms(workload), self.secondary_mib(workload)]
                yield [workload, f'{self.dirty(workload, self.period):.1f}',
                       *(f'{value:.1f}' for pair in zip(told, seen)
                         for value in pair)]


def report(book):
    """Blocks: the model beside what was measured"""
    yield Text('P0 and R are taken from the workloads idle and dirty-64, L1 '
               'and Q from idle; everything else is predicted. Pause and held '
               'output in ms, memory of the secondary in MiB.')
    for name in MODELLED:
        model = Model(book, PEERS[name])
        if not model.known:
            continue
        yield Heading(3, name)
        yield Text(f'P0 {model.idle:.1f} ms, R {model.rate:.0f} MiB/s.')
        yield Table(['workload', 'dirty MiB', 'pause predicted', 'measured',
                     'held predicted', 'measured', 'memory predicted',
                     'measured'], list(model.rows()))
