#!/usr/bin/python3
# Periodic mode: no comparison, output leaves when its checkpoint commits
#
# SPDX-License-Identifier: GPL-2.0-or-later

from colo import tap
from colo.clients import MIB
from colo.engine import check_alive, last_tick, ticks
from colo.pair import Options, Pair, engine_only
from colo.rounds import (check_held, finish, lose, protect_again, serve,
                         silent)
from colo.util import expect, wait_for

suite = tap.Suite()


def options(**changes):
    return Options(**{'nic': 'virtio-net-pci', 'disk': 'virtio', 'mem': 256,
                      'proxy': False, 'delay': 100, 'boot_first': True,
                      **changes})


def failovers(env, sides):
    """Connections and disk through failovers, with held output."""
    pair = Pair(env, options())
    serve(pair, rate=2 * MIB)
    for side in sides:
        check = silent(pair)
        pair.wait_checkpoints(3)
        check()
        lose(pair, side)
        protect_again(pair)
    finish(pair)


def held(env):
    """Nothing leaves before a commit: with no checkpoints, no answers."""
    pair = Pair(env, options())
    pair.bring_up()
    clients = pair.clients
    clients.wait_reachable()
    clients.start('udp', 'udp', client=1, interval=0.01)
    clients.wait_progress()
    pair.primary.qmp.cmd('migrate-set-parameters',
                         {'x-checkpoint-delay': 600000})
    pair.checkpoint()
    check_held(pair, 1, 3)
    tap_before = pair.bridge.sent_by_guest(pair.phost.tap)
    pair.checkpoint()
    wait_for(lambda: pair.bridge.sent_by_guest(pair.phost.tap) > tap_before,
             20, 'held packets leave at the commit')


def survivor_holds(env):
    """The secondary dies: nothing leaves until the decision, then all."""
    pair = Pair(env, options())
    pair.bring_up()
    clients = pair.clients
    clients.wait_reachable()
    clients.start('echo', 'echo', interval=0.01)
    clients.wait_progress()
    pair.kill_secondary()
    pair.primary_failover()
    clients.wait_progress(60)
    clients.check(clients.stop())


TICKS = 20


def svm_ticks(pair):
    """How often the SVM ticks while the PVM does so TICKS times"""
    last_tick(pair.primary)
    since = {vm: len(vm.console.text) for vm in (pair.primary, pair.secondary)}
    wait_for(lambda: len(ticks(pair.primary, since[pair.primary])) >= TICKS,
             60, f'{TICKS} ticks of the PVM')
    return len(ticks(pair.secondary, since[pair.secondary]))


def idle(env):
    """With nothing to compare the SVM stands still, and yet can take over."""
    pair = Pair(env, options(tick=50, disk='', delay=2000))
    pair.bring_up()
    seen = svm_ticks(pair)
    # those that commits found half printed
    expect(seen <= 3, 'an SVM that stands still', f'{seen} ticks')
    pair.secondary.qmp.wait_event('RESUME', 30, pair.secondary.qmp.mark())
    expect(pair.secondary.qmp.cmd('query-status')['running'],
           'an SVM that is shown as running', 'it is not')
    floor = last_tick(pair.primary)
    pair.checkpoint()
    pair.kill_primary()
    # nobody has decided yet
    check_alive(pair.secondary, floor)
    pair.secondary_failover()
    check_alive(pair.primary, last_tick(pair.primary))


def forgotten(env):
    """An SVM for which no checkpoint comes any more does not wait for it."""
    pair = Pair(env, options(tick=50, disk=''))
    pair.bring_up()
    pair.checkpoint()
    since = len(pair.secondary.console.text)
    pair.primary.qmp.cmd('migrate-set-parameters',
                         {'x-checkpoint-delay': 600000})
    wait_for(lambda: len(ticks(pair.secondary, since)) >= TICKS, 60,
             'the SVM to run')


def runs(env, opts):
    """An SVM that is compared, or would lose much at a failover, runs."""
    pair = Pair(env, opts)
    pair.bring_up()
    pair.checkpoint()
    seen = svm_ticks(pair)
    expect(seen >= TICKS // 2, 'an SVM that runs as the PVM does',
           f'{seen} ticks')


suite.add('primary', 100, failovers, ('primary',))
suite.add('secondary', 100, failovers, ('secondary',))
suite.add('both-ways', 160, failovers, ('primary', 'secondary') * 2)
suite.add('held', 60, held)
suite.add('survivor', 60, survivor_holds)
suite.add('idle', 60, idle)
suite.add('forgotten', 60, forgotten)
suite.add('runs/compared', 60, runs, options(proxy=True, tick=50, disk='',
                                             delay=2000))
suite.add('runs/seldom', 60, runs, options(tick=50, disk='', delay=2001))
suite.add('runs/no-network', 60, runs, engine_only(delay=2000))

if __name__ == '__main__':
    tap.main(suite)
