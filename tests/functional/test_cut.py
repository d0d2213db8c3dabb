#!/usr/bin/python3
# Streams of a real pair that are cut, stall or carry a wrong byte: the
# survivor serves, and nothing acknowledged is lost
#
# Faults strike one after the other; after each the survivor gets a new
# secondary, and the clients' connections last through all of them. With no
# arguments, a sample; --full (make check-cut) takes 50 offsets for every
# stream and fault, and the boundaries of all messages.
# COLO_TEST_FAULT="STREAM/KIND/WAY/PLACE" runs one.
#
# SPDX-License-Identifier: GPL-2.0-or-later

import os
import random
import sys
import time
from dataclasses import dataclass

from colo import tap
from colo.pair import Options, Pair
from colo.qmp import QMPError
from colo.relay import Fault, Relay
from colo.rounds import finish
from colo.util import Deadline, expect

MIB = 1 << 20
SEED = int(os.environ.get('COLO_TEST_SEED', '20261121'))
SAMPLE = 60
FULL = 50
CAMPAIGN = 10       # faults that one pair of hosts goes through

# stream: (port, port of the relay, longest offset to the server, from it)
# Where nothing flows there is nothing to count or to change.
STREAMS = {
    'migration': (9998, 19998, 24 * MIB, 600),
    'mirror': (9003, 19003, 0, MIB // 4),
    'compare': (9004, 19004, MIB // 4, 0),
    'nbd': (9999, 19999, MIB // 4, 4000),
}
KINDS = ('cut', 'stall', 'corrupt')


def colo_message(number):
    return b'QCOL' + number.to_bytes(2, 'big')


def marker(kind):
    return rb'\xc0\x10\x4d\x01.{4}' + kind.to_bytes(2, 'big')


def nbd_request(number):
    return rb'\x25\x60\x95\x13..' + number.to_bytes(2, 'big')


# Messages: stream, to the server, length of the header, what it begins with,
# and whether it comes only when protection starts
MESSAGES = {
    'hello': ('migration', True, 32, colo_message(1), True),
    'begin': ('migration', True, 32, colo_message(3), False),
    'pages': ('migration', True, 32, colo_message(4), False),
    'device': ('migration', True, 32, colo_message(6), False),
    'proxy': ('migration', True, 32, colo_message(7), False),
    'commit': ('migration', True, 32, colo_message(8), False),
    'hello-reply': ('migration', False, 32, colo_message(1), True),
    'ready': ('migration', False, 32, colo_message(2), True),
    'committed': ('migration', False, 32, colo_message(9), False),
    'marker-capture': ('mirror', False, 24, marker(2), False),
    'marker-commit': ('compare', True, 24, marker(3), False),
    'write': ('nbd', True, 28, nbd_request(1), False),
    'flush': ('nbd', True, 27, nbd_request(3), False),
    'reply': ('nbd', False, 15, rb'\x67\x44\x66\x98', False),
}


@dataclass(frozen=True)
class Case:
    """A fault to come"""
    stream: str
    kind: str
    to_server: bool
    offset: int
    message: str = ''       # counted from the next one of these
    early: bool = False     # armed before protection starts

    def __str__(self):
        place = f'{self.message}+' if self.message else ''
        return '/'.join([self.stream, self.kind,
                         'request' if self.to_server else 'reply',
                         f'{place}{self.offset}'] +
                        (['start'] if self.early else []))

    @staticmethod
    def parse(text):
        stream, kind, way, place, *early = text.split('/')
        message, _, offset = place.rpartition('+')
        return Case(stream, kind, way == 'request', int(offset), message,
                    bool(early))

    def fault(self):
        pattern = MESSAGES[self.message][3] if self.message else None
        fault = Fault(self.kind, self.to_server, self.offset, pattern)
        fault.port = STREAMS[self.stream][0]
        return fault


def random_cases(count):
    """@count cases for each stream and kind"""
    rng = random.Random(SEED)
    result = []
    for stream, (_, _, *longest) in STREAMS.items():
        ways = [(to_server, top) for to_server, top in
                zip((True, False), longest) if top]
        for kind in KINDS:
            for number in range(count):
                to_server, top = ways[number % len(ways)]
                # Small offsets are where headers and handshakes are.
                offset = rng.randrange(int(min(top, 10 **
                                               rng.uniform(0, 8))) + 1)
                early = stream == 'migration' and rng.random() < 0.5
                result.append(Case(stream, kind, to_server, offset, '',
                                   early))
    return result


def boundary_cases():
    """Before each message, and between its header and what follows"""
    return [Case(stream, kind, to_server, offset, name, early)
            for name, (stream, to_server, header, _, early) in
            MESSAGES.items() for kind in KINDS for offset in (0, header)]


def shuffled(cases):
    random.Random(SEED).shuffle(cases)
    return cases


def sample(count):
    """@count cases, as even as can be over streams and faults"""
    half = len(STREAMS) * len(KINDS)
    cases = random_cases((count // 2 + half - 1) // half)
    chosen = shuffled(boundary_cases())[:count - len(cases)]
    return shuffled(cases + chosen)


def make_relays(env, pair_ports):
    relays = {}
    for stream, (port, other, *_) in STREAMS.items():
        # The secondary connects to the primary's 9003 and 9004, the primary
        # to the secondary's 9998 and 9999; all listen on any address.
        relay = Relay(('0.0.0.0', other), ('127.0.0.1', port))
        env.callback(relay.close)
        relays[stream] = relay
        pair_ports[port] = other
    return relays


def settle(pair, seconds):
    """Give both sides time to notice; true while all goes on as before."""
    deadline = Deadline(seconds)
    while not deadline.passed():
        for vm in pair.primary, pair.secondary:
            if not vm.running():
                return False
        time.sleep(0.05)
    return True


def yankable(vm):
    """What can be yanked on @vm: only what goes to the other host."""
    local = ('compare0', 'compare0-0', 'compare_out', 'compare_out0',
             'console0', 'stdio')
    return [i for i in vm.qmp.cmd('query-yank') if i.get('id') not in local]


def yank(vm, instances):
    """Cut the streams of a peer that may hang, out of band."""
    for instance in instances:
        try:
            vm.qmp.cmd('yank', {'instances': [instance]}, oob=True)
        except QMPError as error:
            vm.qmp.note(f'yank {instance}: {error}')


def mode_of(vm):
    return vm.qmp.cmd('query-colo-status', seconds=20)['mode'] \
        if vm.running() else 'ended'


def decide(pair, rng, fault, instances):
    """Management: which side goes on. The other one is killed first.

    Neither RAM pages nor NBD writes carry checksums, so a wrong byte in them
    may leave the secondary wrong: then the primary goes on.
    """
    modes = {vm: mode_of(vm) for vm in (pair.primary, pair.secondary)}
    pair.env.note('modes: ' + ', '.join(f'{vm.name} {mode}'
                                        for vm, mode in modes.items()))
    expect(modes[pair.primary] != 'ended', 'the primary lives', 'it ended')
    able = modes[pair.secondary] == 'secondary' and pair.committed_once
    if fault.kind == 'corrupt' and fault.port in (9998, 9999):
        able = False
    if able and rng.random() < 0.5:
        pair.kill_primary()
        yank(pair.secondary, instances[pair.secondary])
        pair.secondary_failover()
    else:
        pair.kill_secondary()
        yank(pair.primary, instances[pair.primary])
        if modes[pair.primary] == 'none' and not pair.committed_once:
            # Protection never began: the guest runs on, or is started.
            pair.run_failover(pair.primary)
            if pair.primary.qmp.cmd('query-status')['status'] != 'running':
                pair.primary.qmp.cmd('cont')
        else:
            pair.primary_failover()


def strike(pair, relays, case):
    """Protect the guest, let the fault strike, and one side go on."""
    clients = pair.clients
    fault = case.fault()
    rng = random.Random(str(case))
    pair.committed_once = False
    if not case.early:
        pair.protect()
        pair.wait_protected()
        pair.committed_once = True
        clients.wait_progress()
    instances = {vm: yankable(vm) for vm in (pair.primary, pair.secondary)}
    relays[case.stream].arm(fault)
    if case.early:
        pair.protect()
    deadline = Deadline(10)
    while not fault.fired.is_set() and not deadline.passed() and \
            pair.secondary.running():
        time.sleep(0.02)
    settle(pair, 1.5)
    if case.early:
        pair.committed_once = mode_of(pair.secondary) == 'secondary' and \
            pair.secondary.qmp.count('RESUME') > 0
    decide(pair, rng, fault, instances)
    for relay in relays.values():
        relay.reset()
    clients.wait_progress(60)
    return fault.fired.is_set()


def campaign(env, cases):
    ports = {}
    relays = make_relays(env, ports)
    pair = Pair(env, Options(nic='virtio-net-pci', disk='virtio', mem=128,
                             delay=300, boot_first=True, ports=ports))
    pair.start()
    clients = pair.clients
    clients.wait_reachable()
    clients.start('records', 'record', client=1, interval=0.01)
    clients.start('echo', 'echo', interval=0.01)
    clients.wait_progress()
    struck = 0
    for number, case in enumerate(cases):
        env.note(str(case))
        if number:
            pair.attach()
        struck += strike(pair, relays, case)
    env.note(f'{struck} of {len(cases)} faults struck in time')
    finish(pair)


def build_suite(cases):
    suite = tap.Suite()
    for start in range(0, len(cases), CAMPAIGN):
        part = cases[start:start + CAMPAIGN]
        suite.add(f'faults-{start + 1}-to-{start + len(part)}',
                  60 + 40 * len(part), campaign, part)
    return suite


def chosen_cases():
    if os.environ.get('COLO_TEST_FAULT'):
        return [Case.parse(os.environ['COLO_TEST_FAULT'])]
    if os.environ.get('COLO_TEST_FULL') == '1':
        return shuffled(random_cases(FULL) + boundary_cases())
    return sample(SAMPLE)


def main():
    # In the environment, because the program runs itself again.
    if '--full' in sys.argv:
        sys.argv.remove('--full')
        os.environ['COLO_TEST_FULL'] = '1'
    tap.main(build_suite(chosen_cases()))


if __name__ == '__main__':
    main()
