#!/usr/bin/python3
# Answers that have the time in them: the guests' clocks are in step, and so
# the two guests say the same
#
# SPDX-License-Identifier: GPL-2.0-or-later

import time

from colo import tap
from colo.pair import Options, Pair
from colo.util import expect, wait_for

suite = tap.Suite()
REQUESTS = 1000
PERIOD = 600000             # ms: no checkpoint but for a reason


def forced(pair):
    """Checkpoints that the guests' output has forced"""
    return sum(n for reason, n in pair.reasons().items()
               if reason not in ('start', 'request'))


def answered(pair):
    status = pair.clients.status()
    pair.clients.check(status)
    return status['http']['requests']


def dates(env):
    """A server whose answers have the date forces one a second at most."""
    pair = Pair(env, Options(nic='virtio-net-pci', disk='', mem=256,
                             delay=PERIOD))
    pair.bring_up()
    pair.clients.wait_reachable()
    pair.checkpoint()
    before, start = forced(pair), time.monotonic()
    pair.clients.start('http', 'http', interval=0)
    wait_for(lambda: answered(pair) >= REQUESTS, 200,
             lambda: f'{REQUESTS} answers, seen {answered(pair)}', 0.2)
    count, seconds = forced(pair) - before, time.monotonic() - start
    pair.clients.stop()
    env.note(f'{count} checkpoints in {seconds:.1f} s: {pair.reasons()}')
    expect(count <= seconds + 1, 'no checkpoint but where a second ends within '
           'a request', f'{count} in {seconds:.1f} s: {pair.reasons()}')


suite.add('dates', 300, dates)

if __name__ == '__main__':
    tap.main(suite)
