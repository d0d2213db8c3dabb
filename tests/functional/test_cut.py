#!/usr/bin/python3
# Streams of a real pair that are cut, stall or carry a wrong byte after the
# n-th byte: the survivor serves, and nothing acknowledged is lost
#
# With no arguments, a sample; --full (make check-cut) takes 50 offsets for
# every stream, direction and fault.
#
# SPDX-License-Identifier: GPL-2.0-or-later

import os
import random
import sys
import time

from colo import tap
from colo.clients import MIB
from colo.pair import Options, Pair
from colo.qmp import QMPError
from colo.relay import Fault, Relay
from colo.rounds import finish
from colo.util import Deadline, expect

SEED = int(os.environ.get('COLO_TEST_SEED', '20261121'))
SAMPLE = 60
FULL = 50

# stream: (port, port of the relay, (to server, longest offset) ...)
STREAMS = {
    'migration': (9998, 19998, ((True, 24 * MIB), (False, 600))),
    'mirror': (9003, 19003, ((False, MIB), (True, 0))),
    'compare': (9004, 19004, ((True, MIB), (False, 0))),
    'nbd': (9999, 19999, ((True, MIB), (False, 4000))),
}
KINDS = ('cut', 'stall', 'corrupt')
# Where no bytes flow there are none to count or to change.
EMPTY = 0


def plan(count_each):
    """(stream, kind, to server, offset) for a run at length"""
    rng = random.Random(SEED)
    result = []
    for stream, (_, _, directions) in STREAMS.items():
        for to_server, longest in directions:
            for kind in KINDS:
                if longest == EMPTY:
                    continue
                for _ in range(count_each):
                    # Small offsets are where headers and handshakes are.
                    top = min(longest, 10 ** rng.uniform(0, 8))
                    result.append((stream, kind, to_server,
                                   rng.randrange(int(top) + 1)))
    return result


def sample(count):
    """@count cases, as even as can be over streams, directions and faults"""
    groups = {}
    for case in plan(count):
        groups.setdefault(case[:3], []).append(case)
    result = []
    while len(result) < count:
        for group in groups.values():
            if len(result) < count:
                result.append(group.pop())
    return result


def make_relays(env, pair_ports):
    relays = {}
    for stream, (port, other, _) in STREAMS.items():
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


def fault_case(env, stream, kind, to_server, offset, early=False):
    fault = Fault(kind, to_server, offset)
    fault.port = STREAMS[stream][0]
    env.note(f'{stream}: {fault}')
    rng = random.Random(f'{stream}{kind}{to_server}{offset}')
    ports = {}
    relays = make_relays(env, ports)
    pair = Pair(env, Options(nic='virtio-net-pci', disk='virtio', mem=128,
                             delay=300, boot_first=True, ports=ports))
    pair.committed_once = False
    pair.start()
    clients = pair.clients
    clients.wait_reachable()
    clients.start('records', 'record', client=1, interval=0.01)
    clients.start('echo', 'echo', interval=0.01)
    clients.wait_progress()
    if not early:
        pair.protect()
        pair.wait_protected()
        pair.committed_once = True
        clients.wait_progress()
    instances = {vm: yankable(vm) for vm in (pair.primary, pair.secondary)}
    relays[stream].arm(fault)
    if early:
        pair.protect()
    deadline = Deadline(10)
    while not fault.fired.is_set() and not deadline.passed() and \
            pair.secondary.running():
        time.sleep(0.02)
    if not fault.fired.is_set():
        env.note('the stream did not carry that many bytes in time')
    settle(pair, 1.5)
    if early:
        pair.committed_once = mode_of(pair.secondary) == 'secondary' and \
            pair.secondary.qmp.count('RESUME') > 0
    decide(pair, rng, fault, instances)
    clients.wait_progress(60)
    finish(pair)


def build_suite(cases):
    suite = tap.Suite()
    rng = random.Random(SEED)
    for stream, kind, to_server, offset in cases:
        way = 'request' if to_server else 'reply'
        early = stream == 'migration' and rng.random() < 0.5
        suite.add(f'{stream}/{kind}/{way}/{offset}' +
                  ('/start' if early else ''), 90, fault_case, stream, kind,
                  to_server, offset, early)
    return suite


def main():
    # In the environment, because the program runs itself again.
    if '--full' in sys.argv:
        sys.argv.remove('--full')
        os.environ['COLO_TEST_FULL'] = '1'
    full = os.environ.get('COLO_TEST_FULL') == '1'
    tap.main(build_suite(plan(FULL) if full else sample(SAMPLE)))


if __name__ == '__main__':
    main()
