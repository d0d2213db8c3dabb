#!/usr/bin/python3
# Hostile input: frames and packets on every net socket, garbage on the
# migration sockets, options with wrong values, commands at the wrong time
#
# SPDX-License-Identifier: GPL-2.0-or-later

import os
import select
import socket

from colo import frames, tap
from colo.engine import check_alive
from colo.pair import Pair, engine_only
from colo.qmp import QMPClosed, QMPError
from colo.util import SCALE, TestError, expect, wait_for
from colo.vm import VM

suite = tap.Suite()

# What must be refused, with a word of the reason or the option's name.
BAD_OPTIONS = (
    ('colo-compare', {}),
    ('colo-compare', {'primary_in': 'c0'}),
    ('colo-compare', {'primary_in': 'c0', 'secondary_in': 'c1'}),
    ('colo-compare', {'primary_in': 'none', 'secondary_in': 'c1',
                      'outdev': 'c2', 'iothread': 'io0'}),
    ('colo-compare', {'primary_in': 'c0', 'secondary_in': 'c0',
                      'outdev': 'c2', 'iothread': 'io0'}),
    ('colo-compare', {'primary_in': 'c0', 'secondary_in': 'c1',
                      'outdev': 'c0', 'iothread': 'io0'}),
    ('colo-compare', {'primary_in': 'c0', 'secondary_in': 'c1',
                      'outdev': 'c2'}),
    ('colo-compare', {'primary_in': 'c0', 'secondary_in': 'c1',
                      'outdev': 'c2', 'iothread': 'none'}),
    ('colo-compare', {'primary_in': 'c0', 'secondary_in': 'c1',
                      'outdev': 'c2', 'iothread': 'io0',
                      'compare_timeout': 0}),
    ('colo-compare', {'primary_in': 'c0', 'secondary_in': 'c1',
                      'outdev': 'c2', 'iothread': 'io0',
                      'compare_timeout': -1}),
    ('colo-compare', {'primary_in': 'c0', 'secondary_in': 'c1',
                      'outdev': 'c2', 'iothread': 'io0',
                      'expired_scan_cycle': 0}),
    ('colo-compare', {'primary_in': 'c0', 'secondary_in': 'c1',
                      'outdev': 'c2', 'iothread': 'io0',
                      'max_queue_size': 0}),
    ('colo-compare', {'primary_in': 'c0', 'secondary_in': 'c1',
                      'outdev': 'c2', 'iothread': 'io0',
                      'max_queue_size': 'many'}),
    ('colo-compare', {'primary_in': 'c0', 'secondary_in': 'c1',
                      'outdev': 'c2', 'iothread': 'io0',
                      'notify_dev': 'none'}),
    ('colo-compare', {'primary_in': 'c0', 'secondary_in': 'c1',
                      'outdev': 'c2', 'iothread': 'io0',
                      'vnet_hdr_support': 'maybe'}),
    ('filter-mirror', {}),
    ('filter-mirror', {'netdev': 'hn0'}),
    ('filter-mirror', {'outdev': 'c0'}),
    ('filter-mirror', {'netdev': 'none', 'outdev': 'c0'}),
    ('filter-mirror', {'netdev': 'hn0', 'outdev': 'none'}),
    ('filter-mirror', {'netdev': 'hn0', 'outdev': 'c0', 'queue': 'up'}),
    ('filter-mirror', {'netdev': 'hn0', 'outdev': 'c0', 'insert': 'over'}),
    ('filter-mirror', {'netdev': 'hn0', 'outdev': 'c0', 'insert': 'before',
                       'position': 'id=none'}),
    ('filter-mirror', {'netdev': 'hn0', 'outdev': 'c0', 'position': 'x'}),
    ('filter-mirror', {'netdev': 'hn0', 'outdev': 'c0', 'status': 'maybe'}),
    ('filter-redirector', {'netdev': 'hn0'}),
    ('filter-redirector', {'netdev': 'hn0', 'indev': 'none'}),
    ('filter-redirector', {'netdev': 'hn0', 'outdev': 'none'}),
    ('filter-redirector', {'netdev': 'hn0', 'indev': 'c0', 'outdev': 'c0'}),
    ('filter-rewriter', {}),
    ('filter-rewriter', {'netdev': 'none'}),
    ('filter-rewriter', {'netdev': 'hn0', 'vnet_hdr_support': 3}),
    ('filter-buffer', {'netdev': 'hn0', 'interval': 0}),
)

# What stock takes as well: a value one may dislike, but not an error.
ALLOWED = ()


class NetSockets:
    """A QEMU with net objects whose sockets are ours, and no guest"""

    def __init__(self, env, objects, names):
        self.names = names
        self.paths = {n: os.path.join(env.folder, n) for n in names}
        # A machine that runs, so that packets flow, but executes nothing.
        args = ['-accel', 'qtest', '-machine', 'pc', '-m', '16', '-nodefaults',
                '-qmp', 'stdio', '-netdev', 'hubport,id=hn0,hubid=0',
                '-device', 'e1000,netdev=hn0', '-object', 'iothread,id=io0']
        for name, path in self.paths.items():
            args += ['-chardev', f'socket,id={name},path={path},server=on,'
                     'wait=off']
        self.vm = env.add_vm(VM('net', env.folder, args + objects))
        self.vm.launch()
        self.socks = {}

    def connect(self, name):
        self.close(name)
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(10 * SCALE)
        wait_for(lambda: self.try_connect(sock, name), 10,
                 f'a connection to {name}')
        self.socks[name] = sock
        return sock

    def try_connect(self, sock, name):
        try:
            sock.connect(self.paths[name])
            return True
        except BlockingIOError:
            # The one before has not been accepted yet.
            return False

    def close(self, name):
        old = self.socks.pop(name, None)
        if old:
            old.close()

    def send(self, name, data):
        """Send, whether or not the other side still listens."""
        try:
            (self.socks.get(name) or self.connect(name)).sendall(data)
        except OSError:
            self.connect(name)

    def alive(self, what):
        try:
            self.vm.qmp.cmd('query-status', seconds=10)
        except TestError as error:
            raise TestError(f'expected: QEMU lives on after: {what}\n'
                            f'seen: {error}') from error

    def drain(self, name):
        """Read away what has come; true if it was anything."""
        got = False
        sock = self.socks[name]
        while select.select([sock], [], [], 0)[0]:
            try:
                if not sock.recv(65536):
                    break
            except OSError:
                break
            got = True
        return got


COMPARE = ['-object', 'colo-compare,id=comp0,primary_in=pri,secondary_in=sec,'
           'outdev=out,iothread=io0']
REWRITER = ['-object', 'filter-redirector,id=f1,netdev=hn0,queue=tx,indev=pri',
            '-object', 'filter-redirector,id=f2,netdev=hn0,queue=rx,'
            'outdev=out',
            '-object', 'filter-rewriter,id=rew0,netdev=hn0,queue=all',
            '-object', 'filter-redirector,id=f3,netdev=hn0,queue=rx,'
            'indev=sec']


def with_vnet(objects):
    return [o + ',vnet_hdr_support=on' if 'id=' in o else o for o in objects]


def hostile_net(env, objects, vnet, what):
    """Every hostile input into each socket that takes frames."""
    nets = NetSockets(env, with_vnet(objects) if vnet else objects,
                      ('pri', 'sec', 'out'))
    for name in nets.names:
        nets.connect(name)
    vnet_len = 12 if vnet else None
    head = bytes(12) if vnet else b''

    def usable():
        """A frame boundary: both take frames, after a reconnect too."""
        good = frames.frame(head + frames.valid_packets()['udp'], vnet_len)
        for side in 'pri', 'sec':
            nets.send(side, good)

    if what == 'frames':
        for name, data in frames.broken_frames(vnet):
            for side in 'pri', 'sec':
                nets.connect(side)
                nets.send(side, data)
                nets.connect(side)
            usable()
            nets.alive(f'{name}')
            nets.drain('out')
    else:
        sources = {'cut': frames.cut_packets(),
                   'lying': frames.lying_packets(),
                   'random': frames.random_packets(2000, 11)}
        for number, (name, packet) in enumerate(sources[what]):
            data = frames.frame(head + packet, vnet_len)
            nets.send('pri', data)
            if number % 2:
                nets.send('sec', data)
            nets.drain('out')
            if number % 25 == 0:
                nets.alive(name)
    usable()
    nets.alive('all of it')
    wait_for(lambda: check_out(nets, head, vnet_len), 15,
             'a packet that both sides sent comes out afterwards', 0.1)


def check_out(nets, head, vnet_len):
    packet = frames.ipv4(17, frames.udp(b'the last one'))
    data = frames.frame(head + packet, vnet_len)
    for side in 'pri', 'sec':
        nets.send(side, data)
    return nets.drain('out')


def bad_options(env):
    """Each wrong option is refused with an error, and QEMU lives on."""
    nets = NetSockets(env, [], ('c0', 'c1', 'c2'))
    accepted = []
    for number, (kind, props) in enumerate(BAD_OPTIONS):
        try:
            nets.vm.qmp.cmd('object-add', {'qom-type': kind, 'id':
                                           f'o{number}', **props})
            nets.vm.qmp.cmd('object-del', {'id': f'o{number}'})
            accepted.append(f'{kind} {props}')
        except QMPError as error:
            expect(len(error.desc) > 10, f'a clear error for {kind} {props}',
                   error.desc)
        nets.alive(f'{kind} {props}')
    expect(not accepted, 'every wrong option is refused', accepted)


def garbage_incoming(env, data):
    """Garbage on the secondary's migration socket: a clear end."""
    pair = Pair(env, engine_only())
    pair.start()
    pair.run(pair.secondary, pair.doc.secondary_setup)
    with socket.create_connection(('127.0.0.2', 9998), 10) as sock:
        sock.sendall(data)
    vm = pair.secondary

    def settled():
        return not vm.running() or \
            vm.qmp.cmd('query-migrate').get('status') == 'failed'
    try:
        wait_for(settled, 20, 'the secondary refuses the stream')
    except QMPClosed:
        vm.wait_exit(10)
    with open(vm.stderr_path, encoding='utf-8') as f:
        text = f.read()
    expect(len(text) > 10, 'a message on stderr', text)
    check_alive(pair.primary, 0)


# (command, arguments, what is expected: an error or success)
ALWAYS_WRONG = (
    ('x-colo-lost-heartbeat', None),
    ('x-colo-checkpoint', None),
)
LOAD = ('snapshot-load', {'job-id': 's', 'tag': 's', 'vmstate': 'none',
                          'devices': []})
SAVE = ('xen-save-devices-state', {'filename': '/dev/null'})
WRONG_ON_PRIMARY = (
    LOAD,
    SAVE,
    ('migrate', {'uri': 'tcp:127.0.0.1:1'}),
    ('migrate-incoming', {'uri': 'tcp:127.0.0.1:1'}),
    ('device_add', {'driver': 'virtio-rng-pci', 'id': 'rng9'}),
    ('migrate-set-capabilities', {'capabilities': [
        {'capability': 'x-colo', 'state': False}]}),
    ('xen-set-replication', {'enable': True, 'primary': True,
                             'failover': True}),
    ('migrate-set-parameters', {'x-checkpoint-delay': -1}),
)
WRONG_ON_SECONDARY = (
    LOAD,
    SAVE,
    ('migrate', {'uri': 'tcp:127.0.0.1:1'}),
    ('migrate-incoming', {'uri': 'tcp:127.0.0.1:1'}),
    ('x-colo-checkpoint', None),
    ('device_add', {'driver': 'virtio-rng-pci', 'id': 'rng9'}),
)
HARMLESS = (
    ('query-colo-status', None),
    ('query-migrate', None),
    ('query-xen-replication-status', None),
    ('query-yank', None),
    ('query-migrate-parameters', None),
)


def refused(vm, commands, when):
    for command, args in commands:
        try:
            vm.qmp.cmd(command, args, seconds=20)
        except QMPError as error:
            expect(len(error.desc) > 10, f'a clear error for {command} {when}',
                   error.desc)
            continue
        raise TestError(f'expected: {command} {args} is refused {when} on '
                        f'{vm.name}\nseen: success')


def job_refused(vm, command):
    """@command starts a job, which must end with an error."""
    vm.qmp.cmd(command, {'job-id': 'job0', 'tag': 's', 'vmstate': 'none',
                         'devices': []})

    def ended():
        jobs = [j for j in vm.qmp.cmd('query-jobs') if j['id'] == 'job0']
        return jobs and jobs[0]['status'] == 'concluded' and jobs[0]
    job = wait_for(ended, 20, f'the end of {command} on {vm.name}')
    expect('COLO' in job.get('error', ''), f'{command} is refused on '
           f'{vm.name} during COLO', job)
    vm.qmp.cmd('job-dismiss', {'id': 'job0'})


def commands(env):
    """Each command before, during and after COLO."""
    pair = Pair(env, engine_only())
    pair.start()
    for vm in pair.primary, pair.secondary:
        refused(vm, ALWAYS_WRONG, 'before COLO')
        for command, args in HARMLESS:
            vm.qmp.cmd(command, args)
    pair.protect()
    pair.wait_protected()
    refused(pair.primary, WRONG_ON_PRIMARY, 'during COLO')
    for vm in pair.primary, pair.secondary:
        job_refused(vm, 'snapshot-save')
    refused(pair.secondary, WRONG_ON_SECONDARY, 'during COLO')
    for vm in pair.primary, pair.secondary:
        for command, args in HARMLESS:
            vm.qmp.cmd(command, args)
    text = pair.primary.qmp.hmp('savevm x')
    expect('COLO' in text, 'savevm is refused during COLO', repr(text))
    pair.wait_checkpoints(2)
    check_alive(pair.primary, 0)
    pair.kill_primary()
    pair.secondary_failover()
    refused(pair.primary, ALWAYS_WRONG, 'after COLO')
    for command, args in HARMLESS:
        pair.primary.qmp.cmd(command, args)
    check_alive(pair.primary, 0)


CAPABILITIES = (
    'xbzrle', 'rdma-pin-all', 'auto-converge', 'zero-blocks', 'events',
    'postcopy-ram', 'release-ram', 'return-path', 'pause-before-switchover',
    'multifd', 'dirty-bitmaps', 'postcopy-blocktime', 'late-block-activate',
    'x-ignore-shared', 'validate-uuid', 'background-snapshot',
    'zero-copy-send', 'postcopy-preempt', 'switchover-ack', 'dirty-limit',
    'mapped-ram')


def capability(env, name):
    """x-colo and another capability work together, or are refused."""
    pair = Pair(env, engine_only(multifd=2 if name == 'multifd' else 0))
    pair.start()
    caps = [{'capability': 'x-colo', 'state': True},
            {'capability': name, 'state': True}]
    refusals = []
    for vm in pair.secondary, pair.primary:
        try:
            vm.qmp.cmd('migrate-set-capabilities', {'capabilities': caps})
        except QMPError as error:
            refusals.append(f'{vm.name}: {error.desc}')
    if not refusals:
        try:
            pair.run(pair.primary, pair.doc.primary_setup)
        except QMPError as error:
            refusals.append(f'migrate: {error.desc}')
    if refusals:
        env.note(f'refused: {refusals}')
        expect(all(len(r) > 20 for r in refusals), 'a clear error', refusals)
        return
    if name == 'pause-before-switchover':
        wait_for(lambda: pair.primary.qmp.cmd('query-migrate')['status'] ==
                 'pre-switchover', 20, 'a pause before the switchover')
        pair.primary.qmp.cmd('migrate-continue', {'state': 'pre-switchover'})
    pair.wait_protected()
    pair.wait_checkpoints(2)
    pair.kill_primary()
    pair.secondary_failover()
    check_alive(pair.primary, 0)
    env.note('works')


for vnet in False, True:
    kind = 'vnet' if vnet else 'plain'
    for what in 'frames', 'cut', 'lying', 'random':
        suite.add(f'compare/{kind}/{what}', 60, hostile_net, COMPARE, vnet,
                  what)
        suite.add(f'filters/{kind}/{what}', 60, hostile_net, REWRITER, vnet,
                  what)
suite.add('options', 60, bad_options)
suite.add('incoming/garbage', 60, garbage_incoming, os.urandom(4096))
suite.add('incoming/truncated', 60, garbage_incoming, b'QEVM\0\0\0\3')
# a configuration section whose machine name has 4 GiB less one page
suite.add('incoming/size', 60, garbage_incoming,
          b'QEVM\0\0\0\3\7\xff\xff\xf0\0pc')
suite.add('incoming/empty', 60, garbage_incoming, b'')
suite.add('commands', 90, commands)
for cap in CAPABILITIES:
    suite.add('capability/' + cap, 60, capability, cap)

if __name__ == '__main__':
    tap.main(suite)
