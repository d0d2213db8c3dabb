#!/usr/bin/python3
# Guests that power off, reset or panic while protected: what the PVM does is
# output, what the SVM does alone is divergence
#
# SPDX-License-Identifier: GPL-2.0-or-later

from colo import tap
from colo.engine import check_alive, last_tick
from colo.pair import Pair, engine_only
from colo.util import expect, wait_for

suite = tap.Suite()


def protected(env, **options):
    pair = Pair(env, engine_only(**options))
    pair.bring_up()
    return pair


def power_off(env):
    """The guest powers off: both QEMUs end, and say why."""
    pair = protected(env)
    both = pair.primary, pair.secondary
    marks = {vm: vm.qmp.mark() for vm in both}
    pair.primary.console.send('x poweroff')
    for vm in both:
        event = vm.qmp.wait_event('SHUTDOWN', 40, marks[vm])
        expect(event['data']['guest'], f'{vm.name} shuts down because of the '
               'guest', event['data'])
        status = vm.wait_exit(20)
        expect(status == 0, f'{vm.name} ends with status 0', status)


def power_on(env):
    """
    Management keeps QEMU when the guest powers off, and starts it again: the
    secondary waits for that, and goes on. When the guest powers off once more
    that is committed first, too.
    """
    pair = protected(env, extra=['-no-shutdown'])
    vm = pair.primary
    for count in 1, 2:
        before = pair.reasons().get('guest', 0)
        mark, since = vm.qmp.mark(), len(vm.console.text)
        vm.console.send('x poweroff')
        vm.qmp.wait_event('SHUTDOWN', 40, mark)
        expect(pair.reasons()['guest'] > before, 'a checkpoint because of the '
               'guest', pair.reasons())
        vm.qmp.cmd('system_reset')
        vm.qmp.cmd('cont')
        vm.console.wait(r'^guestd ready', 60, since)
        pair.wait_checkpoints(2)
        env.note(f'it has powered off {count} times')
    floor = last_tick(vm)
    pair.kill_primary()
    pair.secondary_failover()
    check_alive(pair.primary, min(floor, last_tick(pair.primary)))


def reset(env, command, **options):
    """The guest resets: both follow, protection goes on."""
    pair = protected(env, **options)
    vm = pair.primary
    since = len(vm.console.text)
    mark = vm.qmp.mark()
    vm.console.send('x ' + command)
    vm.qmp.wait_event('RESET', 40, mark)
    vm.console.wait(r'^guestd ready', 60, since)
    reasons = pair.reasons()
    expect(reasons.get('guest', 0) >= 1, 'a checkpoint because of the guest',
           reasons)
    pair.wait_checkpoints(2)
    floor = last_tick(vm)
    pair.kill_primary()
    pair.secondary_failover()
    check_alive(pair.primary, min(floor, last_tick(pair.primary)))


def alone(env, command):
    """The SVM alone does it: a checkpoint puts it right."""
    pair = protected(env)
    pair.primary.qmp.cmd('migrate-set-parameters',
                         {'x-checkpoint-delay': 600000})
    pair.checkpoint()
    floor = last_tick(pair.primary)
    pair.secondary.console.send('x ' + command)
    wait_for(lambda: pair.reasons().get('secondary', 0) >= 1, 40,
             lambda: f'a checkpoint because of the secondary, seen '
             f'{pair.reasons()}')
    check_alive(pair.secondary, floor)
    check_alive(pair.primary, floor)
    pair.checkpoint()
    floor = last_tick(pair.primary)
    pair.kill_primary()
    pair.secondary_failover()
    check_alive(pair.primary, min(floor, last_tick(pair.primary)))


def suspend(env, side):
    """A guest that sleeps is asleep on both sides, and can be woken up."""
    pair = protected(env)
    vm = pair.primary
    mark = vm.qmp.mark()
    vm.console.send('x suspend')
    vm.qmp.wait_event('SUSPEND', 40, mark)
    pair.checkpoint()
    pair.checkpoint()
    for vm in pair.primary, pair.secondary:
        status = vm.qmp.cmd('query-status')['status']
        expect(status == 'suspended', f'{vm.name} to be asleep', status)
    floor = last_tick(pair.primary)
    pair.survives_as = 'suspended'
    pair.lose(side)
    pair.primary.qmp.cmd('system_wakeup')
    check_alive(pair.primary, floor)


def after_failover(env):
    """A survivor powers off and resets like any guest."""
    pair = protected(env)
    pair.kill_primary()
    pair.secondary_failover()
    vm = pair.primary
    check_alive(vm, 0)
    since = len(vm.console.text)
    vm.console.send('x reboot')
    vm.console.wait(r'^guestd ready', 60, since)
    mark = vm.qmp.mark()
    vm.console.send('x poweroff')
    vm.qmp.wait_event('SHUTDOWN', 40, mark)
    expect(vm.wait_exit(20) == 0, 'status 0', vm.proc.returncode)


suite.add('pvm/poweroff', 60, power_off)
suite.add('pvm/power-on', 120, power_on)
suite.add('pvm/reboot', 80, reset, 'reboot')
suite.add('pvm/reboot-virtio', 80, reset, 'reboot', nic='virtio-net-pci',
          proxy=True)
suite.add('pvm/panic', 80, reset, 'crash')
suite.add('pvm/suspend-primary', 80, suspend, 'primary')
suite.add('pvm/suspend-secondary', 80, suspend, 'secondary')
suite.add('svm/poweroff', 60, alone, 'poweroff')
suite.add('svm/reboot', 60, alone, 'reboot')
suite.add('svm/panic', 60, alone, 'crash')
suite.add('survivor', 60, after_failover)

if __name__ == '__main__':
    tap.main(suite)
