# Test programs that print TAP
#
# Each case is a function that takes an Env: what it opens there is closed
# when it ends, and what its VMs said is printed when it fails.
#
# SPDX-License-Identifier: GPL-2.0-or-later

import argparse
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback

from . import net
from .util import SCALE, Skip, TestError


class CaseLimit(TestError):
    """A case ran into its time limit."""


class Env(contextlib.ExitStack):
    """What one case uses: a folder, VMs, networks"""

    def __init__(self, name):
        super().__init__()
        self.folder = tempfile.mkdtemp(prefix=f'colo-{name}-')
        self.vms = []
        self.notes = []
        self.reporters = []

    def note(self, text):
        """A line for the reader, printed as a TAP comment."""
        self.notes.append(text)
        print(f'# {text}', flush=True)

    def add_vm(self, vm):
        self.vms.append(vm)
        self.callback(vm.close)
        return vm

    def report(self):
        for reporter in self.reporters:
            yield from reporter()
        for vm in self.vms:
            yield from vm.report()


class Suite:
    """The cases of one program, and the flavours of guest they use"""

    def __init__(self, guests=('cloud',)):
        self.cases = []
        self.guests = guests

    def case(self, name, limit=60):
        """Decorator: a case with a hard limit in seconds."""
        def register(function):
            self.cases.append((name, limit, function))
            return function
        return register

    def add(self, name, limit, function, *args, **kwargs):
        self.cases.append((name, limit,
                           lambda env: function(env, *args, **kwargs)))

    def select(self, patterns, part):
        chosen = [c for c in self.cases if not patterns or
                  any(p in c[0] for p in patterns)]
        if part:
            index, count = (int(n) for n in part.split('/'))
            chosen = chosen[index - 1::count]
        return chosen

    def main(self):
        parser = argparse.ArgumentParser()
        parser.add_argument('cases', nargs='*',
                            help='run the cases with one of these in the name')
        parser.add_argument('--list', action='store_true')
        parser.add_argument('--part', metavar='I/N',
                            help='run the I-th of N parts')
        parser.add_argument('--keep', action='store_true',
                            help='keep the folders of cases that passed')
        parser.add_argument('--repeat', type=int, default=1)
        args = parser.parse_args()
        chosen = self.select(args.cases, args.part) * args.repeat
        if args.list:
            print(*(c[0] for c in chosen), sep='\n')
            return 0
        try:
            net.enter(self.guests)
        except TestError as error:
            print(error, file=sys.stderr)
            print('Bail out!', str(error).splitlines()[0], flush=True)
            return 1
        return self.run(chosen, args.keep)

    def run(self, chosen, keep):
        print('TAP version 13')
        print(f'1..{len(chosen)}', flush=True)
        failed = 0
        for number, (name, limit, function) in enumerate(chosen, 1):
            failed += not run_case(number, name, limit, function, keep)
        return 1 if failed else 0


def on_alarm(_signum, _frame):
    raise CaseLimit('expected: the case ends within its time limit')


def on_term(_signum, _frame):
    raise KeyboardInterrupt


def check_crashes(env):
    for vm in env.vms:
        name = vm.crashed()
        if name:
            raise TestError(f'expected: {vm.name} does not crash\n'
                            f'seen: it died of {name}')


def sanitizer_reports(env):
    for vm in env.vms:
        with open(vm.stderr_path, encoding='utf-8', errors='replace') as f:
            text = f.read()
        for word in ('ERROR: AddressSanitizer', 'runtime error:',
                     'WARNING: ThreadSanitizer'):
            if word in text:
                raise TestError(f'expected: no sanitizer report\nseen: {word} '
                                f'in {vm.stderr_path}')


def run_case(number, name, limit, function, keep):
    """Run one case and print its result. True if it passed or was skipped."""
    start = time.monotonic()
    env = Env(name.replace('/', '-'))
    signal.signal(signal.SIGALRM, on_alarm)
    signal.signal(signal.SIGTERM, on_term)
    passed = False
    try:
        with env:
            signal.setitimer(signal.ITIMER_REAL, limit * SCALE)
            try:
                function(env)
                check_crashes(env)
                sanitizer_reports(env)
                passed = True
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
                if not passed:
                    report = list(env.report())
        result = f'ok {number} {name}'
    except Skip as skip:
        result = f'ok {number} {name} # SKIP {skip}'
        passed = True
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        result = f'not ok {number} {name}'
        for line in describe(error) + report:
            print('# ' + line)
        print(f'# folder: {env.folder}')
    if '# SKIP' not in result:
        print(f'# {name}: {time.monotonic() - start:.1f} s')
    print(result, flush=True)
    if passed and not keep:
        shutil.rmtree(env.folder, ignore_errors=True)
    return passed


def describe(error):
    """The error, and where it came from in the tests."""
    lines = str(error).splitlines() or [type(error).__name__]
    if not isinstance(error, TestError):
        lines = [f'{type(error).__name__}: {error}']
    for frame in traceback.extract_tb(error.__traceback__)[-6:]:
        lines.append(f'  at {os.path.basename(frame.filename)}:'
                     f'{frame.lineno} {frame.name}')
    return lines


def main(suite):
    sys.exit(suite.main())
