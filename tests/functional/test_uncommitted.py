#!/usr/bin/python3
# Between capture and commit: the PVM runs on, and what it does stays inside
#
# A relay stalls the checkpoint behind its pages, so that it is captured and not
# committed for as long as a case needs, which is less than the engine's limit
# of 10 s.
#
# SPDX-License-Identifier: GPL-2.0-or-later

import contextlib
import time

from colo import disk, tap
from colo.engine import (PAGES_PER_MIB, check_memory, clock_distance,
                         load_stat, start_load, time_offset)
from colo.pair import Options, Pair
from colo.relay import Fault, Relay
from colo.rounds import check_held, finish
from colo.util import expect, wait_for

suite = tap.Suite()
NEVER = 600000              # ms
HELD_LIMIT = 32             # MiB of writes, for each disk
MIB = 32
# The header of a DEVICE message: it follows all pages
DEVICE = rb'QCOL\x00\x06'


def relayed(env):
    """A relay for the checkpoints, and what a pair has to know of it"""
    relay = Relay(('0.0.0.0', 19998), ('127.0.0.1', 9998))
    env.callback(relay.close)
    return relay, {9998: 19998}


def order(vm, line):
    answer = vm.console.command(line)
    expect(answer == 'ok', f'ok to {line}', answer)


def write_others(pair, *numbers):
    """Records, those but the first of an epoch that is to be lost"""
    for number in numbers or range(101, 121):
        order(pair.primary, f'record 2 {number}')


def with_disk(env):
    relay, ports = relayed(env)
    pair = disk.protected(env, 'virtio', ports=ports)
    disk.write(pair, 5)
    # a file that the lost epoch only adds to, or the SVM would overwrite it
    write_others(pair, 1)
    return relay, pair


def capture(relay, pair):
    """From now on there are no checkpoints but this one, which is captured."""
    vm = pair.primary
    requests = pair.reasons().get('request', 0)
    vm.qmp.cmd('migrate-set-parameters', {'x-checkpoint-delay': NEVER})
    vm.qmp.cmd('x-colo-checkpoint')
    # not that of the period, which may have been under way
    wait_for(lambda: pair.reasons().get('request', 0) > requests, 30,
             lambda: f'a checkpoint, seen {pair.stats()}', 0.02)
    relay.arm(Fault('stall', True, 0, DEVICE))
    vm.qmp.cmd('x-colo-checkpoint')
    relay.wait_fired()
    wait_for(lambda: vm.qmp.cmd('query-status')['running'], 10,
             'the PVM to go on')


@contextlib.contextmanager
def captured(relay, pair):
    """In here a checkpoint is captured; it is committed at the end."""
    capture(relay, pair)
    epoch = pair.committed()
    yield
    expect(pair.committed() == epoch, 'no commit yet', pair.stats())
    relay.release()
    wait_for(lambda: pair.committed() > epoch, 30, lambda: 'a commit, seen '
             f'{pair.stats()}', 0.02)


def check_others_gone(pair):
    disk.write(pair, 5)
    records = disk.check(pair)
    expect(records[2] == [1], 'no record of the epoch that was lost', records)


def check_all_there(pair):
    """What was written before the next checkpoint survives the primary."""
    disk.write(pair, 5)
    pair.checkpoint()
    pair.kill_primary()
    pair.secondary_failover()
    disk.write(pair, 5)
    disk.check(pair)


def memory(env):
    """The guest changes its memory while the old content is sent."""
    relay, pair = with_disk(env)
    start_load(pair.primary, MIB, 60)
    with captured(relay, pair):
        before = load_stat(pair.primary)[0]
        wait_for(lambda: load_stat(pair.primary)[0] > before + PAGES_PER_MIB,
                 8, 'the guest to write while nothing is committed')
    pair.kill_primary()
    pair.secondary_failover()
    check_memory(pair.primary, MIB)


def clock(env):
    """However long the commit takes, the guests' clocks are in step."""
    relay, pair = with_disk(env)
    with captured(relay, pair):
        begun, error = time_offset(pair.primary)
        start = time.monotonic()
        wait_for(lambda: time.monotonic() > start + 1, 8, 'a second')
        now, more = time_offset(pair.primary)
        expect(abs(now - begun) < 0.1 + error + more, "the PVM's clock to run",
               now - begun)
    distance, error = clock_distance(pair)
    env.note(f'clocks apart: {distance * 1000:.1f} ms (error '
             f'{error * 1000:.1f} ms)')
    expect(abs(distance) < 0.01 + error, 'clocks less than 10 ms apart',
           f'{distance * 1000:.0f} ms')


def output(env):
    """No packet leaves before the commit, and then all do."""
    relay, ports = relayed(env)
    pair = Pair(env, Options(nic='virtio-net-pci', disk='virtio', mem=256,
                             boot_first=True, ports=ports))
    pair.bring_up()
    clients = pair.clients
    clients.wait_reachable()
    clients.start('udp', 'udp', client=1, interval=0.01, patience=0.3)
    clients.wait_progress()
    with captured(relay, pair):
        # what the PVM sent before the capture, the SVM may still send
        settled, now = check_held(pair, 2, 5)
        executed = pair.primary.console.command(f'udp 1 {now["sent"]}')
        expect(executed[settled['sent']:].count('1') >= 3,
               'the guest to have executed requests meanwhile', executed)
    clients.wait_progress()
    pair.kill_primary()
    pair.secondary_failover()
    clients.wait_progress(60)
    finish(pair)


def writes(env):
    """Writes are answered before the commit, and forwarded after it."""
    relay, pair = with_disk(env)
    with captured(relay, pair):
        disk.write(pair, 20)
    check_all_there(pair)


def undone(env):
    """What was held for a commit belongs to the next one: it can be undone.

    A file that is overwritten in place, as the SVM's caches would hide the loss
    of what a file system does.
    """
    relay, pair = with_disk(env)
    vm = pair.primary
    order(vm, 'writes off')
    before = vm.console.command('second')
    with captured(relay, pair):
        order(vm, 'writes seq4k')
        wait_for(lambda: int(vm.console.command('written').split()[0]) > 2, 8,
                 'writes while nothing is committed')
        order(vm, 'writes off')
        expect(vm.console.command('second') == '1 0', 'a write to the file',
               vm.console.command('second'))
    pair.kill_primary()
    pair.secondary_failover()
    now = pair.primary.console.command('second')
    expect(now == before, f'{before} in the file, as it was committed', now)
    check_others_gone(pair)


def past_the_limit(env):
    """A guest that writes too much waits for the commit; nothing is lost."""
    relay, pair = with_disk(env)
    vm = pair.primary
    order(vm, 'writes off')
    with captured(relay, pair):
        order(vm, 'writes seq')
        seen = []

        def stuck():
            seen.append(int(vm.console.command('written').split()[0]))
            return seen[-1] > 1 and len(seen) > 3 and seen[-4] == seen[-1]
        wait_for(stuck, 8, lambda: f'a guest that waits; written {seen} MiB',
                 0.3)
        expect(seen[-1] <= HELD_LIMIT + 2, f'no more than {HELD_LIMIT} MiB '
               'held', seen)
    wait_for(lambda: int(vm.console.command('written').split()[0]) >
             seen[-1] + 5, 20, 'the guest to write on')
    order(vm, 'writes off')
    check_all_there(pair)


def primary_dies(env):
    """The SVM goes on from the old epoch: nothing of the new one is there."""
    relay, pair = with_disk(env)
    capture(relay, pair)
    write_others(pair)
    pair.kill_primary()
    pair.secondary_failover()
    check_others_gone(pair)


def secondary_dies(env):
    """The primary goes on alone with all it did."""
    relay, pair = with_disk(env)
    capture(relay, pair)
    disk.write(pair, 20)
    pair.kill_secondary()
    pair.primary_failover()
    relay.reset()
    disk.write(pair, 5)
    pair.resume()
    check_all_there(pair)


suite.add('memory', 60, memory)
suite.add('clock', 60, clock)
suite.add('output', 90, output)
suite.add('writes', 60, writes)
suite.add('undone', 60, undone)
suite.add('past-the-limit', 60, past_the_limit)
suite.add('primary-dies', 60, primary_dies)
suite.add('secondary-dies', 90, secondary_dies)

if __name__ == '__main__':
    tap.main(suite)
