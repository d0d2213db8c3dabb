#!/usr/bin/python3
# The replicated disk: pairs without a network, a guest that writes records
#
# SPDX-License-Identifier: GPL-2.0-or-later

from colo import tap
from colo.disk import check, lose, protected, said, write
from colo.guest import read_records
from colo.relay import Fault, Relay
from colo.util import expect, wait_for

suite = tap.Suite()


def failover(env, side, disk, **changes):
    pair = protected(env, disk, **changes)
    lose(pair, side)
    check(pair)


def rounds(env, disk):
    pair = protected(env, disk)
    for side in ('primary', 'secondary') * 2:
        lose(pair, side)
        pair.resume()
        write(pair, 10)
    pair.checkpoint()
    pair.kill_primary()
    pair.secondary_failover()
    check(pair)


def uncommitted(env):
    """What the primary wrote and did not commit is undone at failover."""
    pair = protected(env, 'virtio')
    write(pair, 5)
    pair.primary.qmp.cmd('migrate-set-parameters',
                         {'x-checkpoint-delay': 600000})
    pair.checkpoint()
    for number in range(101, 121):
        pair.primary.console.command(f'record 2 {number}')
    pair.kill_primary()
    pair.secondary_failover()
    write(pair, 5)
    pair.wait_jobs()
    pair.primary.kill()
    records = pair.records()
    expect(records.get(1) == list(range(1, 11)), 'the committed records and '
           'those after the failover', records)
    expect(2 not in records, 'no record of the epoch that was lost', records)


def forwarding_lost(env, kind):
    """The stream of forwarded writes breaks: protection ends, loudly."""
    relay = Relay(('0.0.0.0', 19999), ('127.0.0.1', 9999))
    env.callback(relay.close)
    pair = protected(env, 'virtio', ports={9999: 19999})
    vm = pair.primary
    write(pair, 5)
    instances = [i for i in vm.qmp.cmd('query-yank')
                 if i['type'] == 'block-node']
    relay.arm(Fault(kind, True, 0))
    if kind == 'stall':
        vm.console.send('x record 1 6')
        pair.next_record += 1
        vm.qmp.cmd('yank', {'instances': instances}, oob=True)
    else:
        write(pair, 3)
    event = vm.qmp.wait_event('COLO_EXIT', 60, pair.mark[vm])
    expect(event['data']['reason'] == 'error', 'COLO_EXIT for an error',
           event['data'])
    said(vm, 'COLO: protection is lost')
    pair.kill_secondary()
    pair.primary_failover()
    wait_for(lambda: vm.console.command('sync', 30) == 'ok', 60, 'a sync')
    write(pair, 5)
    check(pair)


def secondary_export_gone(env):
    """The secondary's export goes: protection ends, the guest goes on."""
    pair = protected(env, 'virtio')
    write(pair, 5)
    pair.secondary.qmp.cmd('nbd-server-stop')
    vm = pair.primary
    write(pair, 3)
    event = vm.qmp.wait_event('COLO_EXIT', 60, pair.mark[vm])
    expect(event['data']['reason'] == 'error', 'COLO_EXIT for an error',
           event['data'])
    said(vm, 'COLO: protection is lost', "Replication node 'replication0'",
         'a write could not be forwarded to the secondary')
    pair.kill_secondary()
    pair.primary_failover()
    write(pair, 5)
    check(pair)


def crash_in_merge(env):
    """The survivor dies in the merge after failover: nothing is lost."""
    pair = protected(env, 'virtio')
    write(pair, 20)
    pair.checkpoint()
    pair.kill_primary()
    pair.secondary_failover()
    pair.primary.kill()
    host = pair.phost
    found = read_records(env.folder, host.image('secondary-active'),
                         host.image('secondary-hidden'),
                         host.image('primary')).get(1, [])
    expect(found[:20] == list(range(1, 21)), 'all committed records', found)


suite.add('failover/primary-virtio', 60, failover, 'primary', 'virtio')
suite.add('failover/secondary-virtio', 60, failover, 'secondary', 'virtio')
suite.add('failover/primary-ide', 60, failover, 'primary', 'ide')
suite.add('failover/secondary-ide', 60, failover, 'secondary', 'ide')
suite.add('failover/primary-smp2-multifd', 60, failover, 'primary', 'virtio',
          smp=2, multifd=2)
suite.add('rounds', 120, rounds, 'virtio')
suite.add('uncommitted', 60, uncommitted)
suite.add('forwarding/cut', 90, forwarding_lost, 'cut')
suite.add('forwarding/stall', 90, forwarding_lost, 'stall')
suite.add('secondary-export-gone', 90, secondary_export_gone)
suite.add('crash-in-merge', 60, crash_in_merge)

if __name__ == '__main__':
    tap.main(suite)
