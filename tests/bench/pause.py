# How long the guest stands still at a checkpoint, what a checkpoint carries,
# how long output waits for one, and what the QEMUs hold, over the rate at which
# the guest dirties memory
#
# The working set is the same for every peer, and is there in full before the
# first measurement.
#
# SPDX-License-Identifier: GPL-2.0-or-later

import functools
import statistics
import time

from colo.util import wait_for

from load import Load, checked
from peers import check_protected, sides
from probes import (bytes_sent, engine, memory, number, order, pauses_ms,
                    phases_ms)
from tasks import Task

FLAT_OUT = 100000           # MiB a second, more than any vCPU writes
# workload: MiB a second, pages of a run
WORKLOADS = {'idle': (0, 1), 'dirty-1': (1, 1), 'dirty-16': (16, 1),
             'dirty-64': (64, 1), 'dirty-128': (128, 1),
             'dirty-max': (FLAT_OUT, 1), 'dirty-16-runs': (16, 16),
             'dirty-128-runs': (128, 16)}
QUICK = ('idle', 'dirty-64')
OTHER_SIZES = ('idle', 'dirty-64')
PLAIN_SECONDS = 1
FLAT_OUT_SECONDS = 5
FLAT_OUT_PERIOD_MS = 1000
REQUESTED_SECONDS = 2
REQUESTS_PER_S = 5


def working_set(mem):
    """MiB that the load writes to, as far as the guest has them."""
    return min(192, mem * 3 // 8)


def pauses(pair, marks, side):
    return pauses_ms(sides(pair)[side], marks[side])


def wait_pauses(pair, marks, count):
    """Both sides have stood still @count times since @marks."""
    period = pair.options.delay / 1000

    def seen():
        check_protected(pair)
        return all(len(pauses(pair, marks, side)) >= count for side in marks)
    wait_for(seen, 20 + count * 5 * period, lambda: f'{count} checkpoints; '
             'seen ' + ', '.join(f'{side} {len(pauses(pair, marks, side))}'
                                 for side in marks), period / 10)


def periodic(pair, count):
    """Metrics of @count checkpoints at least"""
    marks = {side: vm.qmp.mark() for side, vm in sides(pair).items()}
    before, stats = bytes_sent(), engine(pair)
    wait_pauses(pair, marks, count)
    result = {f'{side}_pause_ms': statistics.median(pauses(pair, marks, side))
              for side in marks}
    result['bytes_per_epoch'] = (bytes_sent() - before) / len(
        pauses(pair, marks, 'primary'))
    result.update(phases_ms(stats, engine(pair)))
    return result


def requested(pair, seconds):
    """Answers that tell the guest's time, and so always differ

    Each forces a checkpoint, where output is compared, or waits for one, where
    it is held; which is when the client sees it.
    """
    marks = {side: vm.qmp.mark() for side, vm in sides(pair).items()}
    seen = checked(Load(pair, 'time', 'control', seconds,
                        REQUESTS_PER_S).result())
    result = {'held_ms': dict(seen['curve'])[0.5]}
    if pair.secondary and pair.options.proxy:
        for side in marks:
            result[f'{side}_requested_pause_ms'] = statistics.median(
                pauses(pair, marks, side))
    return result


def end(pair):
    """What is measured next is not to have this load beside it."""
    order(pair, f'scatter {working_set(pair.options.mem)} 0 1')


def start(pair, rate, run):
    order(pair, f'scatter {working_set(pair.options.mem)} {rate} {run}')
    if pair.secondary:
        # the first one takes all of a new working set
        pair.wait_checkpoints(1)


def flat_out(pair):
    """What checkpoints leave of the guest's speed, at the same period all"""
    if pair.secondary:
        pair.primary.qmp.cmd('migrate-set-parameters',
                             {'x-checkpoint-delay': FLAT_OUT_PERIOD_MS})
    start(pair, FLAT_OUT, 1)
    began, pages = time.monotonic(), number(pair, 'scattered')
    time.sleep(FLAT_OUT_SECONDS)
    if pair.secondary:
        check_protected(pair)
    result = {'dirtied_mib_per_s': (number(pair, 'scattered') - pages) / 256 /
                                   (time.monotonic() - began)}
    end(pair)
    return result


def measure(pair, rate, run, count, seconds):
    start(pair, rate, run)
    began, pages = time.monotonic(), number(pair, 'scattered')
    result = {}
    if pair.secondary:
        result.update(periodic(pair, count))
    else:
        time.sleep(PLAIN_SECONDS)
    result['dirtied_mib_per_s'] = ((number(pair, 'scattered') - pages) / 256 /
                                   (time.monotonic() - began))
    result.update(memory(pair))
    result.update(requested(pair, seconds))
    end(pair)
    return result


def tasks(peer, quick, mem):
    names = QUICK if quick else WORKLOADS if mem == 512 else OTHER_SIZES
    for name in names:
        rate, run = WORKLOADS[name]
        yield Task('pause', name, functools.partial(
            measure, rate=rate, run=run, count=1 if quick else 2,
            seconds=1 if quick else REQUESTED_SECONDS))


def flat_out_tasks(peer, quick, mem):
    yield Task('flat-out', 'period-1s', flat_out)
