# Checks of a guest that has neither network nor disk: ticks and memory
#
# The guest prints a counter on its console and rewrites memory whose content
# it checks. A survivor must go on counting from a state that was committed,
# without a step back, and find its memory as it must be.
#
# SPDX-License-Identifier: GPL-2.0-or-later

import re
import time

from .util import SCALE, TestError, Timeout, expect, wait_for

PAGES_PER_MIB = 256


def ticks(vm, since=0):
    return [int(n) for n in re.findall(r'^tick (\d+) ',
                                       vm.console.text[since:], re.M)]


def last_tick(vm):
    wait_for(lambda: ticks(vm), 30, f'ticks on the console of {vm.name}')
    return ticks(vm)[-1]


def start_load(vm, mib, rate, kind='random'):
    answer = vm.console.command(f'dirty {mib} {rate} {kind}')
    expect(answer == 'ok', 'the memory load starts', answer)


def load_stat(vm):
    pages, bad = (int(w) for w in vm.console.command('stat').split())
    return pages, bad


def check_alive(vm, floor):
    """The guest counts on, from @floor at least and without a gap."""
    since = len(vm.console.text)
    wait_for(lambda: len(ticks(vm, since)) >= 10, 30,
             lambda: f'ticks of {vm.name}; seen '
             f'{vm.console.text[since:][-200:]!r}')
    # The first line may have begun before.
    seen = ticks(vm, since)[1:]
    expect(seen[0] >= floor, f'{vm.name} goes on at tick {floor} or later, '
           'which was committed', f'tick {seen[0]}')
    expect(seen == list(range(seen[0], seen[0] + len(seen))),
           f'{vm.name} counts without a gap', seen)


def check_memory(vm, mib, rate=400):
    """All of the load's memory is as it must be.

    The load goes on at a rate that a migration can follow on any machine.
    """
    before, bad = load_stat(vm)
    expect(bad == 0, 'no wrong page', f'{bad} of {before}')
    start_load(vm, mib, rate)

    def passed():
        pages, wrong = load_stat(vm)
        expect(wrong == 0, 'no wrong page', f'{wrong} of {pages}')
        return pages >= before + mib * PAGES_PER_MIB
    wait_for(passed, 40, f'one pass of {vm.name} through its memory', 0.1)
    start_load(vm, mib, 2)


def time_offset(vm):
    """The guest's monotonic clock minus ours, in seconds, and the error."""
    for _ in range(20):
        start = time.monotonic()
        try:
            answer = vm.console.command('time', 2 / SCALE)
        except Timeout:
            # A checkpoint took the command back; it is asked again.
            continue
        end = time.monotonic()
        return int(answer.split()[0]) / 1e9 - (start + end) / 2, end - start
    raise TestError(f'expected: {vm.name} tells the time\nseen: no answer')


def clock_distance(pair, samples=5):
    """How far the guests' clocks are apart, and the error of that."""
    best = None
    for _ in range(samples):
        first, error1 = time_offset(pair.primary)
        second, error2 = time_offset(pair.secondary)
        if best is None or error1 + error2 < best[1]:
            best = (second - first, error1 + error2)
    return best
