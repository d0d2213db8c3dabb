#!/usr/bin/python3
# A primary that hangs, is taken over, and comes back: it must find out, stop,
# and harm neither the clients' connections nor the disk
#
# SPDX-License-Identifier: GPL-2.0-or-later

import os
import signal
import subprocess

from colo import tap
from colo.pair import Options, Pair
from colo.qmp import QMPError
from colo.rounds import finish, lose, protect_again, serve
from colo.util import build_dir, expect, wait_for

suite = tap.Suite()
MIB = 1 << 20


def take_over(pair, keep_export):
    """
    The documented failover, but for the sockets to listen on: they are still
    the old primary's, as both hosts of a test are one. Returns what is left.
    """
    vm = pair.secondary
    now, later = [], []
    for command in pair.doc.secondary_failover:
        name = command['execute']
        wait = name == 'chardev-add' or (keep_export and
                                         name == 'nbd-server-stop')
        (later if wait else now).append(command)
    pair.run(vm, now)
    pair.check_exit(vm, 'secondary', pair.mark[vm])
    pair.swap()
    return later


def write_to_export(pair):
    """What a write to the export of the replicated disk is answered."""
    done = subprocess.run(
        [os.path.join(build_dir(), 'qemu-io'), '-f', 'raw', '-c',
         'write -P 0xee 0 64k', f'nbd://{pair.phost.ip}:9999/parent0'],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        timeout=30, check=False)
    return done.stdout


def comes_back(env, unplug, keep_export):
    pair = Pair(env, Options(nic='virtio-net-pci', disk='virtio', mem=256,
                             delay=500))
    serve(pair, rate=2 * MIB)
    pair.wait_checkpoints(2)
    clients = pair.clients
    old, host = pair.primary, pair.phost
    if not unplug:
        # nor is it in a checkpoint when it comes back, but running
        old.qmp.cmd('migrate-set-parameters', {'x-checkpoint-delay': 600000})
        pair.checkpoint()
        clients.wait_progress(60)
    mark = old.qmp.mark()
    old.kill(signal.SIGSTOP)
    if unplug:
        pair.bridge.unplug(host.tap)
    later = take_over(pair, keep_export)
    clients.wait_progress(60)
    survivor = pair.primary
    if keep_export:
        answer = write_to_export(pair)
        expect('Operation not permitted' in answer, 'a write to the export '
               'refused', answer)

    old.kill(signal.SIGCONT)
    event = old.qmp.wait_event('COLO_EXIT', 30, mark)
    env.note(f'{old.name}: COLO_EXIT {event["data"]}')
    wait_for(lambda: pair.status(old)['mode'] == 'none', 30,
             'the end of COLO on the old primary')
    status = old.qmp.cmd('query-status')
    expect(not status['running'] and status['status'] == 'postmigrate',
           'the old primary has stopped for good', status)
    sent = pair.bridge.sent_by_guest(host.tap)
    try:
        old.qmp.cmd('cont')
        expect(False, 'cont is refused', 'it is not')
    except QMPError as refused:
        env.note(f'{old.name}: {refused}')
    clients.wait_progress(60)
    clients.wait_progress(60)
    expect(not old.qmp.cmd('query-status')['running'], 'the old primary '
           'stands still', 'it runs')
    now = pair.bridge.sent_by_guest(host.tap)
    expect(now == sent, 'no packet from the old primary once it has stopped',
           f'{now - sent} packets')
    expect(survivor.qmp.cmd('query-status')['running'], 'the survivor runs',
           'it does not')
    old.kill()
    if unplug:
        pair.bridge.plug(host.tap)
    pair.run(survivor, later)
    protect_again(pair)
    lose(pair, 'primary')
    finish(pair)


suite.add('unplugged', 150, comes_back, True, False)
suite.add('plugged', 150, comes_back, False, False)
suite.add('plugged-export', 150, comes_back, False, True)

if __name__ == '__main__':
    tap.main(suite)
