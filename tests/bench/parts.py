# What BENCH= can name
#
# SPDX-License-Identifier: GPL-2.0-or-later

from dataclasses import dataclass

import compare
import disk
import failover
import micro
import pause
import traffic

SIZES = (512, 256, 1024, 4096)


@dataclass(frozen=True)
class Part:
    """Functions that yield a peer's tasks, and the guests they are for"""
    tasks: tuple
    sizes: tuple = (512,)
    quick: bool = True      # also part of the quick run
    pair: bool = True


def parts(top):
    return {
        'pause': Part((pause.tasks,), SIZES),
        'flat-out': Part((pause.flat_out_tasks,), quick=False),
        'latency': Part((traffic.latency,)),
        'mix': Part((traffic.mix,), quick=False),
        'throughput': Part((traffic.throughput, disk.tasks)),
        'failover': Part((failover.tasks,)),
        'compare': Part((compare.tasks(top),), (0,), pair=False),
        'micro': Part((micro.tasks(top),), (0,), quick=False, pair=False),
    }


def tasks(part, peer, quick, mem):
    for function in part.tasks:
        yield from function(peer, quick, mem)
