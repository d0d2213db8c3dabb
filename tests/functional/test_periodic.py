#!/usr/bin/python3
# Periodic mode: no comparison, output leaves when its checkpoint commits
#
# SPDX-License-Identifier: GPL-2.0-or-later

from colo import tap
from colo.clients import MIB
from colo.pair import Options, Pair
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


suite.add('primary', 100, failovers, ('primary',))
suite.add('secondary', 100, failovers, ('secondary',))
suite.add('both-ways', 160, failovers, ('primary', 'secondary') * 2)
suite.add('held', 60, held)
suite.add('survivor', 60, survivor_holds)

if __name__ == '__main__':
    tap.main(suite)
