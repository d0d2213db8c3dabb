# How many packets a second the comparison matches and releases
#
# QEMUs without a guest: packets go in and come out through the chardevs of
# colo-compare. Stock compares at once; this tree compares while COLO is active,
# so a secondary is attached, and relays sit in the chardevs' connections until
# the markers have passed.
#
# SPDX-License-Identifier: GPL-2.0-or-later

import functools
import os
import select
import shutil
import socket
import subprocess
import threading

from colo.tap import Env
from colo.util import TestError, expect, wait_for
from colo.vm import VM

from tasks import Task

PACKETS = {64: 400000, 1460: 100000}
CONNECTIONS = (1, 1000, 100000)
QUICK = ((64, 1), (1460, 1))
BARE = ['-accel', 'qtest', '-m', '16', '-nodefaults']
FOREVER_MS = 4000000000
LAST_EPOCH = 3
LIMIT = 120                 # seconds


def listen_on(path):
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(path)
    sock.listen()
    return sock


def connect_to(path):
    sock = socket.socket(socket.AF_UNIX)

    def connected():
        try:
            sock.connect(path)
            return True
        except OSError:
            return False
    wait_for(connected, 20, f'a listener at {path}')
    return sock


class Relay:
    """Connects who connects to @path with who listens at @target"""

    def __init__(self, env, path, target):
        self.listener = listen_on(path)
        self.target = target
        self.stopping = threading.Event()
        self.outer = self.inner = None
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()
        env.callback(self.close)

    def run(self):
        # kept open: an end of its connection is noticed in the other object
        self.outer = self.listener.accept()[0]
        self.inner = connect_to(self.target)
        other = {self.outer: self.inner, self.inner: self.outer}
        while not self.stopping.is_set():
            for sock in select.select(list(other), [], [], 0.05)[0]:
                data = sock.recv(65536)
                if not data:
                    return
                other[sock].sendall(data)

    def stop(self):
        """What the target sent is no longer passed on."""
        self.stopping.set()
        self.thread.join(5)
        expect(not self.thread.is_alive(), f'the relay to {self.target} is '
               'connected', 'it still waits')
        return self.inner

    def close(self):
        self.stopping.set()
        for sock in self.listener, self.outer, self.inner:
            if sock:
                sock.close()


def chardev(name, path, server):
    return ['-chardev', f'socket,id={name},path={path}'
            + (',server=on,wait=off' if server else '')]


def comparison(primary_in, secondary_in, out):
    return ['-object', 'iothread,id=iothread1', '-object',
            f'colo-compare,id=comp0,primary_in={primary_in},secondary_in='
            f'{secondary_in},outdev={out},iothread=iothread1,'
            'compare_timeout=1000000']


def nothing():
    """Nothing has to be checked afterwards."""


def bare(env):
    """Stock: a machine that has nothing but the comparison"""
    paths = {n: os.path.join(env.folder, n) for n in ('in', 'compare', 'out')}
    words = [*BARE, '-machine', 'none', '-qmp', 'stdio']
    for name, path in paths.items():
        words += chardev(name, path, True)
    env.add_vm(VM('compare', env.folder, words + comparison(*paths))).launch()
    return [connect_to(path) for path in paths.values()], nothing


def start(env, side, words):
    """A machine with a NIC, as the engine and the filters need it"""
    return env.add_vm(VM(side, env.folder, [
        *BARE, '-machine', 'pc', '-qmp', 'stdio', '-netdev',
        'stream,id=hn0,server=on,addr.type=unix,addr.path='
        f'{env.folder}/net-{side}', '-device',
        'e1000,netdev=hn0,mac=52:54:00:12:34:56', *words])).launch()


def primary_words(folder):
    return [*chardev('mirror0', f'{folder}/mirror', True),
             *chardev('compare1', f'{folder}/compare', True),
             *chardev('compare0-0', f'{folder}/in', True),
             *chardev('compare_out0', f'{folder}/out', True),
             *chardev('compare0', f'{folder}/relay-in', False),
             *chardev('compare_out', f'{folder}/relay-out', False),
             '-object', 'filter-mirror,id=m0,netdev=hn0,queue=tx,'
             'outdev=mirror0',
             '-object', 'filter-redirector,netdev=hn0,id=redire0,queue=rx,'
             'indev=compare_out',
             '-object', 'filter-redirector,netdev=hn0,id=redire1,queue=rx,'
             'outdev=compare0', *comparison('compare0-0', 'compare1',
                                            'compare_out0')]


def secondary_words(folder):
    return [*chardev('red0', f'{folder}/mirror', False),
             *chardev('red1', f'{folder}/relay-compare', False),
             '-object', 'filter-redirector,id=f1,netdev=hn0,queue=tx,'
             'indev=red0',
             '-object', 'filter-redirector,id=f2,netdev=hn0,queue=rx,'
             'outdev=red1',
             '-object', 'filter-rewriter,id=rew0,netdev=hn0,queue=all',
             '-incoming', f'unix:{folder}/migrate']


def protected(env):
    """This tree: COLO is active, and no further checkpoint comes

    Returns the sockets, and what checks that none has come.
    """
    folder = env.folder
    relays = [Relay(env, f'{folder}/relay-{n}', f'{folder}/{n}')
              for n in ('in', 'compare', 'out')]
    primary = start(env, 'primary', primary_words(folder))
    secondary = start(env, 'secondary', secondary_words(folder))
    for vm in secondary, primary:
        vm.qmp.cmd('migrate-set-capabilities', {'capabilities': [
            {'capability': 'x-colo', 'state': True}]})
        vm.qmp.cmd('migrate-set-parameters',
                   {'x-checkpoint-delay': FOREVER_MS})
    primary.qmp.cmd('migrate', {'uri': f'unix:{folder}/migrate'})

    def epoch():
        status = primary.qmp.cmd('query-colo-status')
        return status.get('stats', {}).get('epoch', 0)
    wait_for(epoch, 30, 'a first checkpoint')
    for number in 2, LAST_EPOCH:
        primary.qmp.cmd('x-colo-checkpoint')
        wait_for(lambda n=number: epoch() == n, 30, f'checkpoint {number}')

    def check():
        expect(epoch() == LAST_EPOCH, f'epoch {LAST_EPOCH} lasts', epoch())
    return [relay.stop() for relay in relays], check


def rate(top, sockets, size, connections):
    """Million packets of the primary a second"""
    fds = [sock.fileno() for sock in sockets]
    for sock in sockets:
        sock.setblocking(True)
    done = subprocess.run(
        [os.path.join(top, 'bench', 'packets'), str(connections), str(size),
         str(PACKETS[size]), *map(str, fds)], pass_fds=fds,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        check=False, timeout=LIMIT)
    if done.returncode:
        raise TestError(done.stderr.strip())
    return float(done.stdout)


def measure(_, top, peer, size, connections):
    os.environ['COLO_QEMU_BUILD'] = os.path.join(top, peer.build)
    with Env('bench-compare') as env:
        env.callback(shutil.rmtree, env.folder, True)
        sockets, check = (protected if peer.build == 'qemu' else bare)(env)
        mpps = rate(top, sockets, size, connections)
        check()
    return {'mpps': mpps, 'ns_per_packet': 1000 / mpps}


def tasks(top):
    def tasks_of(peer, quick, mem):
        if not peer.protected or not peer.proxy:
            return
        for size in PACKETS:
            for connections in CONNECTIONS:
                if not quick or (size, connections) in QUICK:
                    yield Task('compare', f'{size}B-{connections}conn',
                               functools.partial(
                                   measure, top=top, peer=peer, size=size,
                                   connections=connections))
    return tasks_of
