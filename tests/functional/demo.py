#!/usr/bin/python3
# make demo: a protected Linux guest loses its primary and its secondary, both
# ways, while clients use it; LIBVIRT=1 has libvirt run it
#
# The exit status is not zero if an acknowledged record is missing, a
# connection broke or a content differs.
#
# SPDX-License-Identifier: GPL-2.0-or-later

import os
import shutil
import signal
import sys
import time

from colo import net
from colo.libvirt import LibvirtPair
from colo.pair import Options, Pair
from colo.rounds import (TRANSFERS, finish, lose, protect_again, report_rows,
                         serve, table)
from colo.tap import Env, on_alarm, on_term
from colo.util import SCALE, TestError, wait_for

LIMIT = 280
MIB = 1 << 20
# What is served under protection before each failure
RECORDS = 50
TRANSFER = 16 * MIB


class Demo:
    """The run, with progress on the screen"""

    def __init__(self, env):
        self.start = time.monotonic()
        self.env = env
        self.pauses = []
        self.reasons = {}
        env.note = self.note
        kind = LibvirtPair if os.environ.get('LIBVIRT') == '1' else Pair
        self.pair = kind(env, Options(
            nic='virtio-net-pci', disk='virtio', mem=256, delay=1000,
            boot_first=True))

    def note(self, text):
        print(f'[{time.monotonic() - self.start:6.1f} s] {text}', flush=True)

    def keep_statistics(self):
        """Add what this protection did: its end forgets it."""
        stats = self.pair.stats()
        for entry in stats.get('checkpoints', []):
            self.reasons[entry['reason']] = \
                self.reasons.get(entry['reason'], 0) + entry['count']
        if stats:
            self.pauses.append((stats['pause']['median'], stats['pause']['max'],
                                sum(c['count']
                                    for c in stats['checkpoints'])))

    def serve_protected(self):
        """Let the clients work under protection for a while."""
        clients = self.pair.clients
        before = clients.status()

        def enough():
            now = clients.status()
            clients.check(now)
            return now['records']['requests'] >= \
                before['records']['requests'] + RECORDS and \
                all(now[n]['bytes'] >= before[n]['bytes'] + TRANSFER
                    for n in TRANSFERS)
        wait_for(enough, 90, f'{RECORDS} more records and {TRANSFER >> 20} '
                 'MiB more of each transfer', 0.1)

    def fail(self, side):
        pair = self.pair
        self.serve_protected()
        host = pair.phost if side == 'primary' else pair.shost
        status = pair.clients.status()
        self.keep_statistics()
        self.note(f'kill -9 of the {side}, on host {host.letter}; '
                  f'{status["records"]["acked"]} records acknowledged')
        lose(pair, side)
        self.note('the same connections continue on host '
                  f'{pair.phost.letter}')
        self.note('a new secondary: resync, then protection')
        protect_again(pair)
        self.note('protected again')

    def run(self):
        pair = self.pair
        self.note(f'{pair.runs}; a Linux guest boots on host A')
        serve(pair, rate=8 * MIB)
        self.note('protected; clients: HTTP, records, echo, UDP, an upload '
                  'and a download')
        for side in 'primary', 'primary', 'secondary', 'secondary':
            self.fail(side)
        self.keep_statistics()
        self.note('the clients end; the disk is checked')
        results = finish(pair)
        pair.clean_up()
        return results

    def print_table(self, reports, records):
        acked = reports['records']['acked']
        print()
        print(*table(report_rows(reports)), sep='\n')
        print(f'\nrecords acknowledged  {acked}')
        print(f'records on disk       {len(records.get(1, []))}')
        print('checkpoints           ' + ', '.join(
            f'{reason} {count}' for reason, count in
            sorted(self.reasons.items())))
        if self.pauses:
            # Of the medians of each protection, the one in the middle.
            medians = sorted(p[0] for p in self.pauses)
            print(f'pause, median         '
                  f'{medians[len(medians) // 2] / 1000:.1f} ms')
            print(f'pause, longest        '
                  f'{max(p[1] for p in self.pauses) / 1000:.1f} ms')
        print(f'run time              {time.monotonic() - self.start:.0f} s')


def main():
    try:
        net.enter()
    except TestError as error:
        print(f'FAILED: {error}')
        return 1
    signal.signal(signal.SIGALRM, on_alarm)
    signal.signal(signal.SIGTERM, on_term)
    env = Env('demo')
    report = []
    try:
        with env:
            signal.setitimer(signal.ITIMER_REAL, LIMIT * SCALE)
            try:
                demo = Demo(env)
                reports, records = demo.run()
                demo.print_table(reports, records)
            except BaseException:
                signal.setitimer(signal.ITIMER_REAL, 0)
                report = list(env.report())
                raise
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        print('interrupted')
        return 130
    except Exception as error:
        print('\n'.join(report))
        print(f'\nFAILED: {error}\nLogs are in {env.folder}')
        return 1
    shutil.rmtree(env.folder, ignore_errors=True)
    print('\nOK: no acknowledged record is missing, no connection broke, all '
          'contents are right')
    return 0


if __name__ == '__main__':
    sys.exit(main())
