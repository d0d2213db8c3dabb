#!/usr/bin/python3
# Guest memory on both sides: that it is the same after a commit, page by page,
# and what it costs the secondary
#
# SPDX-License-Identifier: GPL-2.0-or-later

import os
import re

from colo import tap
from colo.engine import (PAGES_PER_MIB, check_alive, check_memory, last_tick,
                         load_stat, start_load)
from colo.pair import Pair, engine_only
from colo.qmp import QMPError
from colo.util import expect, wait_for

suite = tap.Suite()
MIB = 32
FULL_MIB = 128
CODE_MIB = 4
LIMIT_MIB = 64              # that a secondary of 256 MiB holds
PAGE = 4096                 # bytes
COMMITS = 200
COMPARED = 20               # of them, with a comparison
STOPS = 20
COW, LOG = 'cow', 'log'


def kinds(pair):
    return {b['name']: b['kind'] for b in pair.status(pair.secondary)['memory']}


def read_memory(vm, folder, mib):
    path = os.path.join(folder, vm.name + '.memory')
    vm.qmp.cmd('pmemsave', {'val': 0, 'size': mib << 20, 'filename': path})
    with open(path, 'rb') as f:
        return f.read()


def different_pages(first, second):
    return [at // PAGE for at in range(0, len(first), PAGE)
            if first[at:at + PAGE] != second[at:at + PAGE]]


def stopped(vm):
    return not vm.qmp.cmd('query-status')['running']


def compare(env, pair):
    """Stop the PVM, and the SVM with it by a checkpoint, and compare."""
    pair.primary.qmp.cmd('stop')
    pair.checkpoint()
    wait_for(lambda: stopped(pair.secondary), 30, 'the SVM to stop, too')
    seen = [read_memory(vm, env.folder, pair.options.mem)
            for vm in (pair.primary, pair.secondary)]
    expect(len(seen[0]) == len(seen[1]) == pair.options.mem << 20,
           'all of the memory', [len(s) for s in seen])
    wrong = different_pages(*seen)
    expect(not wrong, f'the same memory after commit {pair.committed()}',
           f'{len(wrong)} pages differ: {wrong[:20]}')
    pair.primary.qmp.cmd('cont')
    pair.checkpoint()
    wait_for(lambda: not stopped(pair.secondary), 30, 'the SVM to go on')


def survive(pair, side, mib):
    """Without the primary or secondary the guest goes on, memory and all."""
    floor = last_tick(pair.primary)
    pair.checkpoint()
    pair.lose(side)
    check_alive(pair.primary, floor)
    check_memory(pair.primary, mib)


def equal(env, kind, **changes):
    """Commits while both guests write to memory, each on its own"""
    pair = Pair(env, engine_only(delay=100, **changes))
    pair.bring_up()
    name = 'mem0' if kind == LOG else 'pc.ram'
    expect(kinds(pair)[name] == kind,
           f'memory kept by {kind}', kinds(pair))
    start_load(pair.primary, MIB, 60)
    each = COMMITS // COMPARED
    start = pair.committed()
    for _ in range(COMPARED):
        pair.wait_checkpoints(each)
        compare(env, pair)
    expect(pair.committed() - start >= COMMITS, f'{COMMITS} commits',
           pair.committed() - start)
    survive(pair, 'primary', MIB)


def set_balloon(vm, mib):
    """Leave the guest this much memory."""
    mark = vm.qmp.mark()
    vm.qmp.cmd('balloon', {'value': mib << 20})
    vm.qmp.wait_event('BALLOON_CHANGE', 60, mark,
                      lambda data: data['actual'] == mib << 20)


def balloon(env, side):
    """A balloon with free page hints and reporting, with protection and after

    What the guest does not use is not the same on both sides then.
    """
    pair = Pair(env, engine_only(mem=256, extra=BALLOON))
    pair.bring_up()
    start_load(pair.primary, MIB, 40)
    for mib in 160, 256, 160:
        set_balloon(pair.primary, mib)
        pair.wait_checkpoints(2)
    survive(pair, side, MIB)
    for mib in 256, 160:
        set_balloon(pair.primary, mib)
    check_memory(pair.primary, MIB)


def on_one_cpu(vm):
    cpu = min(os.sched_getaffinity(0))
    for task in os.listdir(f'/proc/{vm.proc.pid}/task'):
        os.sched_setaffinity(int(task), {cpu})


def stopping(env):
    """A checkpoint that comes while the PVM is being stopped is of its end.

    To stop the PVM asks for one: it must wait until no vCPU writes any more.
    On one CPU of the host the vCPU is likely to be amid something then.
    """
    pair = Pair(env, engine_only(delay=600000))
    pair.bring_up()
    start_load(pair.primary, MIB, 60)
    on_one_cpu(pair.primary)
    for _ in range(STOPS):
        compare(env, pair)


def code(env, side):
    """Nobody runs what was translated from memory that a commit has changed."""
    pair = Pair(env, engine_only(delay=100, smp=2))
    pair.bring_up()
    start_load(pair.primary, CODE_MIB, 40, 'code')
    pair.wait_checkpoints(30)
    survive(pair, side, CODE_MIB)


def pss_mib(vm):
    """What this QEMU holds, shared memory in parts"""
    with open(f'/proc/{vm.proc.pid}/smaps_rollup', encoding='ascii') as f:
        return int(re.search(r'^Pss:\s+(\d+) kB', f.read(), re.M)[1]) / 1024


def once(env):
    """The secondary has guest memory once; and can still be told apart."""
    pair = Pair(env, engine_only(mem=256))
    pair.start()
    start_load(pair.primary, FULL_MIB, 400)
    wait_for(lambda: load_stat(pair.primary)[0] > FULL_MIB * PAGES_PER_MIB, 60,
             'all of the memory to be written')
    start_load(pair.primary, FULL_MIB, 2)
    pair.protect()
    pair.wait_protected()
    expect(kinds(pair)['pc.ram'] == COW, 'copy-on-write', kinds(pair))
    pair.wait_checkpoints(3)
    held = [pss_mib(vm) for vm in (pair.primary, pair.secondary)]
    env.note(f'PSS in MiB: primary, secondary {held}')
    expect(held[1] < held[0] + FULL_MIB / 2, "not much more than the primary's "
           'memory', held)
    survive(pair, 'primary', FULL_MIB)


def limit(env, **changes):
    """A secondary that holds much for a checkpoint asks for it."""
    pair = Pair(env, engine_only(delay=600000, mem=256, **changes))
    pair.bring_up()
    start_load(pair.primary, FULL_MIB, 40)
    for _ in range(2):
        epoch = pair.committed()
        wait_for(lambda: pair.committed() > epoch, 60, 'a checkpoint')
        last = pair.stats()['last']
        expect(last['reason'] == 'memory' and last['pages'] >
               LIMIT_MIB * PAGES_PER_MIB, f'one for {LIMIT_MIB} MiB', last)
    survive(pair, 'primary', FULL_MIB)


def hotplug(env):
    """Memory is not plugged in on either side, and protection lasts."""
    # Where memory can be added Linux keeps 32 MiB to bounce DMA in
    pair = Pair(env, engine_only(mem=256, extra=['-m', 'slots=2,maxmem=1G']))
    pair.bring_up()
    start_load(pair.primary, MIB, 40)
    for vm in pair.primary, pair.secondary:
        vm.qmp.cmd('object-add', {'qom-type': 'memory-backend-ram',
                                  'id': 'more', 'size': 64 << 20})
        try:
            vm.qmp.cmd('device_add', {'driver': 'pc-dimm', 'id': 'dimm0',
                                      'memdev': 'more'})
            refused = 'nothing'
        except QMPError as error:
            refused = str(error)
        expect('migrating' in refused, f'{vm.name} refuses more memory',
               refused)
    pair.wait_checkpoints(2)
    survive(pair, 'primary', MIB)


PREALLOCATED = ['-object',
                'memory-backend-ram,id=mem0,size=128M,prealloc=on',
                '-machine', 'memory-backend=mem0']
BALLOON = ['-object', 'iothread,id=hints', '-device',
           'virtio-balloon-pci,free-page-hint=on,iothread=hints,'
           'free-page-reporting=on']


def shared(mib):
    return ['-object', f'memory-backend-memfd,id=mem0,size={mib}M,share=on',
            '-machine', 'memory-backend=mem0']


suite.add('equal', 180, equal, COW, smp=2)
suite.add('equal/multifd', 180, equal, COW, smp=2, multifd=2)
suite.add('equal/shared', 180, equal, LOG, smp=2, extra=shared(128))
suite.add('equal/preallocated', 180, equal, LOG, extra=PREALLOCATED)
suite.add('stopping', 120, stopping)
suite.add('limit/shared', 120, limit, extra=shared(256))
suite.add('limit/multifd', 120, limit, multifd=2)
suite.add('balloon/primary', 120, balloon, 'primary')
suite.add('balloon/secondary', 120, balloon, 'secondary')
suite.add('hotplug', 60, hotplug)
suite.add('code/primary', 90, code, 'primary')
suite.add('code/secondary', 90, code, 'secondary')
suite.add('once', 90, once)

if __name__ == '__main__':
    tap.main(suite)
