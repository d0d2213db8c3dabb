# Writes of the guest to its replicated disk
#
# SPDX-License-Identifier: GPL-2.0-or-later

import functools
import time

from probes import number, order, writes_per_s
from tasks import Task
from traffic import QUICK_SECONDS, SECONDS, WARM_UP, with_costs

# bench: (load in the guest, MiB of a write or None where writes are counted)
LOADS = {'disk-seq': ('seq', 1), 'disk-seq4k': ('seq4k', None),
         'disk-sync4k': ('sync4k', None), 'disk-rand4k': ('rand4k', None),
         'disk-randsync4k': ('randsync4k', None)}
QUICK = ('disk-seq', 'disk-sync4k')


def written(pair, seconds, mib):
    """The host's clock counts: a guest's stands still while it is paused."""
    before, start = number(pair, 'written'), time.monotonic()
    time.sleep(seconds)
    rate = writes_per_s(pair, before, start)
    return {'mib_per_s': rate * mib} if mib else {'per_s': rate}


def measure(pair, kind, mib, seconds):
    order(pair, f'writes {kind}')
    time.sleep(WARM_UP)
    result = with_costs(pair, lambda: written(pair, seconds, mib))
    order(pair, 'writes off')
    return result


def tasks(peer, quick, mem):
    for bench in QUICK if quick else LOADS:
        kind, mib = LOADS[bench]
        yield Task(bench, 'full', functools.partial(
            measure, kind=kind, mib=mib,
            seconds=QUICK_SECONDS if quick else SECONDS))
