# How long nobody answers when one side is killed
#
# New connections are tried all the time. The gap is the time between the last
# answer before the kill and the first of a survivor that has taken over, less
# the time from the kill to the failover's first command, which is management's.
#
# SPDX-License-Identifier: GPL-2.0-or-later

import functools
import json
import os
import sys
import time

from colo.guest import GUEST_IP
from colo.util import expect, wait_for

from load import PORT, on_client
from probes import order
from tasks import Task

HERE = os.path.dirname(os.path.abspath(__file__))
BEFORE = 2                  # seconds of answers before the kill
AFTER = 2                   # and after the failover
MERGE_LIMIT = 60            # seconds


def gap_ms(times, killed, commanded):
    """The longest time without an answer that the failover falls into"""
    expect(times and times[0] < killed, 'an answer before the kill', 'none')
    expect(times[-1] > commanded, 'an answer after the failover', 'none')
    gap, begin, end = max((b - a, a, b) for a, b in zip(times, times[1:])
                          if b > killed and a < commanded + 1)
    reaction = max(0, min(end, commanded) - max(begin, killed))
    return (gap - reaction) * 1000


def wait_merged(vm, mark):
    """Seconds at which the overlays were merged; None: nobody says so

    QEMU's own driver does it in a job that is not to be seen.
    """
    if not vm.qmp.count('JOB_STATUS_CHANGE', mark):
        return None
    wait_for(lambda: vm.qmp.find('BLOCK_JOB_COMPLETED', type='commit'),
             MERGE_LIMIT, 'the end of the merge', 0.002)
    return time.monotonic()


def kill(pair, side):
    if side == 'primary':
        pair.kill_primary()
    else:
        pair.kill_secondary()


def failover(pair, side):
    order(pair, 'writes rand4k')
    probe = on_client(pair, sys.executable, os.path.join(HERE, 'probe.py'),
                      GUEST_IP, str(PORT['echo']))
    time.sleep(BEFORE)
    survivor = pair.secondary if side == 'primary' else pair.primary
    mark = survivor.qmp.mark()
    killed = time.monotonic()
    kill(pair, side)
    commanded = time.monotonic()
    result = {}
    if side == 'primary':
        pair.secondary_failover()
        merged = wait_merged(survivor, mark)
        if merged:
            result['merge_ms'] = (merged - commanded) * 1000
    else:
        pair.primary_failover()
    time.sleep(AFTER)
    times = json.loads(probe.communicate(timeout=30)[0])
    result['gap_ms'] = gap_ms(times, killed, commanded)
    return result


def tasks(peer, quick, mem):
    for side in ('primary',) if quick else ('primary', 'secondary'):
        if peer.protected:
            yield Task('failover', f'{side}_killed',
                       functools.partial(failover, side=side), ends=True)
