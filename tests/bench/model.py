# The capacity model: what pause to expect of a pair, from a few numbers
#
# In T seconds a guest that writes D MiB/s to random pages of a working set of W
# MiB leaves U = W (1 - exp(-D T / W)) MiB dirty. A checkpoint stops it for
# P = P0 + U / R: P0 is the pause of an idle guest, and R the rate at which dirty
# pages get into the secondary's memory.
#
# P0 and R are a machine's. They are taken from two workloads of a run, the
# others show what the model is worth.
#
# SPDX-License-Identifier: GPL-2.0-or-later

import math
import statistics

from pause import working_set
from peers import PEERS

MEM = 512                   # MiB
CALIBRATED = ('idle', 'dirty-128')


def dirty_mib(rate, seconds, size):
    return size * (1 - math.exp(-rate * seconds / size))


class Model:
    """A peer on the machine of a run"""

    def __init__(self, book, peer):
        self.book = book
        self.peer = peer
        self.idle = self.median('idle', 'primary_pause_ms')
        loaded = self.median(CALIBRATED[1], 'primary_pause_ms')
        self.known = bool(self.idle and loaded and loaded > self.idle)
        if self.known:
            self.rate = 1000 * self.dirty(CALIBRATED[1]) / (loaded - self.idle)

    def median(self, workload, metric):
        values = self.book.values.get(('pause', workload, MEM, metric), {})
        found = list(values.get(self.peer.name, {}).values())
        return statistics.median(found) if found else None

    def dirty(self, workload):
        return dirty_mib(self.median(workload, 'dirtied_mib_per_s'),
                         self.peer.period_ms / 1000, working_set(MEM))

    def pause_ms(self, dirty):
        return self.idle + 1000 * dirty / self.rate

    def rows(self):
        """(workload, dirty MiB, predicted and measured pause in ms)"""
        for bench, workload, mem, metric in self.book.values:
            seen = self.median(workload, 'primary_pause_ms')
            if (bench, mem, metric) == ('pause', MEM, 'primary_pause_ms') \
                    and seen and workload not in CALIBRATED:
                dirty = self.dirty(workload)
                yield workload, dirty, self.pause_ms(dirty), seen


def report(book):
    """Lines of Markdown: the model beside what was measured"""
    for peer in PEERS.values():
        model = Model(book, peer)
        if not model.known:
            continue
        yield ''
        yield (f'{peer.name}: P0 {model.idle:.1f} ms, R {model.rate:.0f} '
               f'MiB/s, from {" and ".join(CALIBRATED)}')
        yield ''
        yield '| workload | dirty MiB | pause predicted, ms | measured, ms |'
        yield '| --- | ---: | ---: | ---: |'
        for workload, dirty, predicted, seen in model.rows():
            yield (f'| {workload} | {dirty:.1f} | {predicted:.1f} '
                   f'| {seen:.1f} |')
