# What a packet costs the proxy, a page the engine, and a request the
# replication driver
#
# Programs of QEMU's build that call our functions, without a QEMU around them.
# The driver is measured next to the bare disk, as "plain", and QEMU's own.
#
# SPDX-License-Identifier: GPL-2.0-or-later

import functools
import os
import subprocess
import tempfile

from colo.util import TestError

from tasks import Task

FOLDER = 'tests/bench/colo'
SIZES = (64, 1460)          # bytes of a frame
CONNECTIONS = (1, 1000, 100000)
# What the proxy does, and for how many connections
ANY, ONE = CONNECTIONS, CONNECTIONS[:1]
PROXY = {'decode': ONE, 'parse': ONE, 'lookup': ANY, 'compare': ANY,
         'compare-burst': ANY, 'compare-ahead': ANY, 'rewrite-out': ANY,
         'rewrite-in': ANY, 'repair': ANY}
# What the engine does to the pages of a checkpoint, in runs of so many
RAM = ('memcpy', 'zero', 'keep', 'crc', 'stage', 'commit', 'stage-own',
       'commit-own', 'commit-cow')
RUNS = (1, 16)
# Its disk, the driver's role, requests; a primary reads from its local disk
REPLICATION = (('null', 'primary', 'write'), ('file', 'primary', 'write'),
               ('file', 'secondary', 'write'), ('file', 'secondary', 'read'),
               ('file', 'export', 'write'))
# By peer: whether the driver is on the disk. The stocks have the same one.
REPLICATED = {'plain': False, 'ours': True, 'stock-tuned': True}
LIMIT = 120                 # seconds


def run(top, peer, program, *args):
    """The metrics a program prints."""
    path = os.path.join(top, peer.build, FOLDER, program)
    try:
        done = subprocess.run([path, *map(str, args)], text=True, check=False,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              timeout=LIMIT)
    except OSError as error:
        raise TestError(f'{path}: {error.strerror}') from error
    except subprocess.TimeoutExpired as error:
        raise TestError(f'{program} did not end in {LIMIT} s') from error
    if done.returncode:
        raise TestError(done.stderr.strip() or
                        f'{program} ended with status {done.returncode}')
    pairs = (line.split() for line in done.stdout.splitlines())
    return {metric: float(value) for metric, value in pairs}


def packets(_, top, peer, name, size, connections):
    return run(top, peer, 'bench-colo-proxy', name, size, connections)


def requests(_, top, peer, disk, role, operation):
    if not REPLICATED[peer.name]:
        role = 'none'
    with tempfile.TemporaryDirectory(prefix='colo-micro-') as folder:
        return run(top, peer, 'bench-colo-replication', folder, disk, role,
                   operation)


def proxy_tasks(top, peer):
    for name, numbers in PROXY.items():
        for size in SIZES:
            for connections in numbers:
                yield Task('micro', f'{name}-{size}B-{connections}conn',
                           functools.partial(
                               packets, top=top, peer=peer, name=name,
                               size=size, connections=connections))


def replication_tasks(top, peer):
    for disk, role, operation in REPLICATION:
        yield Task('micro', f'replication-{role}-{operation}4k-{disk}',
                   functools.partial(requests, top=top, peer=peer, disk=disk,
                                     role=role, operation=operation))


def memory(_, top, peer, name, pages):
    return run(top, peer, 'bench-colo-ram', name, pages)


def ram_tasks(top, peer):
    for name in RAM:
        for pages in RUNS:
            yield Task('micro', f'ram-{name}-runs-of-{pages}',
                       functools.partial(memory, top=top, peer=peer,
                                         name=name, pages=pages))


def tasks(top):
    def tasks_of(peer, quick, mem):
        if peer.name == 'ours':
            yield from proxy_tasks(top, peer)
            yield from ram_tasks(top, peer)
        if peer.name in REPLICATED:
            yield from replication_tasks(top, peer)
    return tasks_of
