# The test's side of the clients: see agent.py
#
# SPDX-License-Identifier: GPL-2.0-or-later

import json
import os
import select
import subprocess
import sys

from .guest import CLIENT_IP, GUEST_IP
from .util import SCALE, TestError, Timeout, expect, wait_for

MIB = 1 << 20


class Clients:
    """An agent in a network namespace of its own, linked to a bridge"""

    def __init__(self, bridge):
        agent = os.path.join(os.path.dirname(os.path.abspath(__file__)),
                             'agent.py')
        self.proc = subprocess.Popen(
            ['unshare', '--net', sys.executable, agent],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.buffer = b''
        self.reports = {}
        self.call('ping')
        bridge.add_client(self.proc.pid)
        self.call('configure', address=f'{CLIENT_IP}/24')

    def call(self, method, seconds=90, **args):
        self.proc.stdin.write(json.dumps({'do': method, **args}).encode() +
                              b'\n')
        self.proc.stdin.flush()
        while b'\n' not in self.buffer:
            if not select.select([self.proc.stdout], [], [],
                                 seconds * SCALE)[0]:
                raise Timeout(f'expected within {seconds * SCALE:g} s: the '
                              f'clients answer to {method}')
            data = os.read(self.proc.stdout.fileno(), 65536)
            if not data:
                raise TestError('the clients ended')
            self.buffer += data
        line, self.buffer = self.buffer.split(b'\n', 1)
        reply = json.loads(line)
        if 'error' in reply:
            raise TestError(f'clients: {method}: {reply["error"]}')
        return reply['return']

    def start(self, name, kind, **spec):
        spec.setdefault('stall', 60 * SCALE)
        self.call('start', name=name, kind=kind, ip=GUEST_IP, **spec)

    def wait_reachable(self, seconds=30):
        """The guest answers: its link is up, the bridge knows its way."""
        def answered():
            try:
                return self.control('ping', 5) == 'pong'
            except TestError:
                return False
        wait_for(answered, seconds, 'the guest can be reached', 0.2)

    def start_usual(self, rate=8 * MIB, length=64 * MIB):
        """Connections of all kinds that last until stop()."""
        self.start('records', 'record', client=1, interval=0.01)
        self.start('echo', 'echo', interval=0.01)
        self.start('http', 'http', interval=0.05)
        self.start('udp', 'udp', client=1, interval=0.02)
        self.start('upload', 'upload', length=length, rate=rate)
        self.start('download', 'download', length=length, rate=rate)

    def status(self):
        return self.call('status')

    def stop(self, names=None, wait=90):
        reports = self.call('stop', wait + 30, names=names, wait=wait * SCALE)
        self.reports.update(reports)
        return reports

    def control(self, line, timeout=20):
        return self.call('control', timeout + 10, ip=GUEST_IP, line=line,
                         timeout=timeout)

    def check(self, reports=None):
        """No client had an error, and none has ended by itself."""
        reports = reports or self.status()
        errors = [f'{name}: {e}' for name, r in reports.items()
                  for e in r['errors']]
        expect(not errors, 'no error at any client', '; '.join(errors))

    def wait_progress(self, seconds=30, requests=3):
        """Each client gets on: new answers, or bytes of a transfer.

        Those that have done what they had to do are left out, as are those
        that come to their end meanwhile.
        """
        before = {n: r for n, r in self.status().items()
                  if not r.get('ended')}

        def advanced():
            now = self.status()
            self.check(now)
            return all(now[n].get('ended') or
                       now[n]['requests'] >= before[n]['requests'] + requests
                       or now[n]['bytes'] > before[n]['bytes'] + MIB // 4
                       for n in before)
        wait_for(advanced, seconds, lambda: 'progress of every client, seen '
                 f'{before} before and {self.status()} now', 0.1)

    def lose_requests(self, count, seconds=30):
        """So many more UDP requests stay without an answer."""
        target = self.status()['udp']['lost'] + count
        wait_for(lambda: self.status()['udp']['lost'] >= target, seconds,
                 lambda: f'unanswered requests, seen {self.status()}', 0.05)

    def wait_middle(self, names, low=0.15, high=0.8, seconds=60):
        """Each of these transfers is in the middle."""
        def in_the_middle():
            now = self.status()
            self.check(now)
            return all(low < now[n]['fraction'] < high for n in names)
        wait_for(in_the_middle, seconds, lambda: 'transfers in the middle, '
                 f'seen {[self.status()[n]["fraction"] for n in names]}', 0.05)

    def check_udp(self, name='udp', client=1):
        """Each request was executed once at most, each answered one once."""
        report = self.reports[name]
        counts = self.control(f'udp {client} {report["sent"]}')
        expect(len(counts) == report['sent'], f'{report["sent"]} counts',
               f'{len(counts)}')
        twice = [i + 1 for i, c in enumerate(counts) if c not in '01']
        expect(not twice, 'no request executed twice', f'requests {twice}')
        missing = [s for s in report['answered'] if counts[s - 1] != '1']
        expect(not missing, 'each answered request was executed',
               f'not executed: {missing}')

    def report(self):
        """Lines that tell how far each client is."""
        try:
            status = {**self.status(), **self.reports}
        except TestError as error:
            return [f'--- clients: {error}']
        return ['--- clients:'] + [
            f'{name}: {r["requests"]} requests, {r["bytes"]} bytes, idle '
            f'{r["idle_ms"]} ms, longest gap {r["gap_ms"]} ms, '
            f'errors {r["errors"]}' for name, r in status.items()]

    def close(self):
        try:
            self.proc.stdin.close()
            self.proc.wait(5)
        except (OSError, subprocess.TimeoutExpired):
            self.proc.kill()
            self.proc.wait()


def check_records(reports, records):
    """What was acknowledged is on the disk, in order and only once."""
    for name, report in reports.items():
        if 'acked' not in report:
            continue
        client = 1 if name == 'records' else int(name[len('records'):])
        found = records.get(client, [])
        expected = list(range(1, report['acked'] + 1))
        missing = sorted(set(expected) - set(found))
        expect(not missing, f'{name}: records 1 to {report["acked"]} on the '
               'disk', f'missing: {missing[:20]} ({len(missing)} in all)')
        expect(found == sorted(set(found)), f'{name}: each record once and in '
               'order', f'{len(found)} records, {len(set(found))} different')
