# What every part of the harness needs: limits on waiting, errors, paths
#
# SPDX-License-Identifier: GPL-2.0-or-later

import os
import time

# Slow builds (sanitizers) get more time for everything.
SCALE = float(os.environ.get('COLO_TEST_SCALE', '1'))

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(
    os.path.abspath(__file__)))))


class TestError(Exception):
    """A test found something wrong; the text says what was expected."""


class Timeout(TestError):
    """Something did not happen in time."""


class Skip(Exception):
    """A test cannot run here; the text says why."""


def cache_dir():
    base = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
    return os.path.join(base, 'qemu-colo')


def build_dir():
    """The QEMU build under test."""
    given = os.environ.get('COLO_QEMU_BUILD')
    for path in [given] if given else [os.path.join(ROOT, 'build', 'qemu'),
                                       os.path.join(ROOT, 'build')]:
        if os.path.exists(os.path.join(path, 'qemu-system-x86_64')):
            return path
    raise TestError('no qemu-system-x86_64 in '
                    f'{given or os.path.join(ROOT, "build")}: build first, or '
                    'set COLO_QEMU_BUILD')


class Deadline:
    """A point in time after which waiting is an error"""

    def __init__(self, seconds):
        self.end = time.monotonic() + seconds * SCALE

    def left(self):
        return max(0.0, self.end - time.monotonic())

    def passed(self):
        return self.left() <= 0


def wait_for(check, seconds, what, interval=0.02):
    """Call @check until it returns something true, and return that.

    @what names the awaited state; it may be a function, called at the limit.
    """
    deadline = Deadline(seconds)
    while True:
        result = check()
        if result:
            return result
        if deadline.passed():
            text = what() if callable(what) else what
            raise Timeout(f'expected within {seconds * SCALE:g} s: {text}')
        time.sleep(interval)


def expect(condition, expected, seen):
    """An invariant: @expected holds, or the test fails with what was @seen."""
    if not condition:
        raise TestError(f'expected: {expected}\nseen: {seen}')


def tail(path, lines=25):
    try:
        with open(path, encoding='utf-8', errors='replace') as f:
            return f.read().splitlines()[-lines:]
    except OSError:
        return []
