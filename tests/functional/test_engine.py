#!/usr/bin/python3
# The checkpoint engine alone: pairs with neither network nor disk
#
# SPDX-License-Identifier: GPL-2.0-or-later

import signal
import time

from colo import tap
from colo.engine import (PAGES_PER_MIB, check_alive, check_memory,
                         clock_distance, last_tick, load_stat, start_load)
from colo.pair import Pair, engine_only
from colo.qmp import QMPError
from colo.relay import Fault, Relay
from colo.tls import Credentials, TLSRelay
from colo.util import expect, wait_for

suite = tap.Suite()
MIB = 32
WIDE_MIB = 192
KEPT_MIB = 48               # that is copied while the VM stands still
FULL_MIB = 128
SLOW = 1 << 20              # bytes a second
HEADER_SIZE = 32            # bytes, of a message of the checkpoint protocol
QUIET = ['-global', 'migration.x-colo-stop-events=off']
READY = rb'QCOL\x00\x02'  # what that message begins with


def protected(env, rate=40, kind='random', **changes):
    """A protected pair with a load on the guest's memory."""
    pair = Pair(env, engine_only(**changes))
    pair.bring_up()
    if rate:
        start_load(pair.primary, MIB, rate, kind)
    return pair


def lose_primary(pair, inside):
    """Kill the primary, in a checkpoint or not; what was committed stays."""
    pair.checkpoint()
    if inside:
        mark = pair.primary.qmp.mark()
        pair.primary.qmp.wait_event('STOP', 30, mark)
    pair.kill_primary()
    pair.secondary_failover()


def lose_secondary(pair, inside):
    if inside:
        mark = pair.secondary.qmp.mark()
        pair.secondary.qmp.wait_event('STOP', 30, mark)
    pair.kill_secondary()
    pair.primary_failover()


def failover(env, side, inside, again=False, **changes):
    pair = protected(env, **changes)
    pair.wait_checkpoints(3)
    floor = last_tick(pair.primary)
    (lose_primary if side == 'primary' else lose_secondary)(pair, inside)
    check_alive(pair.primary, floor)
    check_memory(pair.primary, MIB)
    status = pair.status(pair.primary)
    expect(status['mode'] == 'none' and status['last-mode'] != 'none',
           'query-colo-status tells that COLO has ended', status)
    if again:
        pair.resume()
        start_load(pair.primary, MIB, 40)
        pair.wait_checkpoints(2)
        floor = last_tick(pair.primary)
        lose_primary(pair, False)
        check_alive(pair.primary, floor)
        check_memory(pair.primary, MIB)


def messages(vm):
    """What a QEMU has said so far, with what it traces"""
    with open(vm.stderr_path, encoding='utf-8') as f:
        return f.read()


def no_flush(env):
    """Disks are flushed when management stops the VM, not at a checkpoint."""
    pair = protected(env, extra=['-trace', 'vm_stop_flush_all'])
    before = [messages(vm).count('vm_stop_flush_all')
              for vm in (pair.primary, pair.secondary)]
    pair.wait_checkpoints(3)
    after = [messages(vm).count('vm_stop_flush_all')
             for vm in (pair.primary, pair.secondary)]
    expect(after == before, 'no flush of all disks', (before, after))
    pair.kill_secondary()
    pair.primary_failover()
    pair.primary.qmp.cmd('stop')
    expect(messages(pair.primary).count('vm_stop_flush_all') > after[0],
           'a flush when the VM is stopped', messages(pair.primary))


def engine_relay(env):
    """A relay for what the engines say to each other, by port 19998"""
    relay = Relay(('0.0.0.0', 19998), ('127.0.0.1', 9998))
    env.callback(relay.close)
    return relay


def cut_inside_message(env, side, offset):
    """A link that ends within a message has ended: nobody waits for it."""
    relay = engine_relay(env)
    pair = protected(env, ports={9998: 19998})
    pair.wait_checkpoints(2)
    floor = last_tick(pair.primary)
    survivor = pair.secondary if side == 'primary' else pair.primary
    survivor.qmp.cmd('trace-event-set-state',
                     {'name': 'colo_takeover_timeout', 'enable': True})
    relay.arm(Fault('cut', side == 'primary', offset))
    survivor.qmp.wait_event('COLO_EXIT', 30, pair.mark[survivor])
    pair.lose(side)
    check_alive(survivor, floor)
    said = messages(survivor)
    expect('COLO: protection is lost' in said and
           'colo_takeover_timeout' not in said,
           'no waiting for a peer that is gone', said)


def rounds(env):
    """Failover and protection again, both ways, and again."""
    pair = protected(env, rate=20)
    for _ in range(2):
        for lose in lose_primary, lose_secondary:
            pair.wait_checkpoints(2)
            floor = last_tick(pair.primary)
            lose(pair, False)
            check_alive(pair.primary, floor)
            pair.resume()
    check_memory(pair.primary, MIB)


def dirty_rate(env, rate, kind='random', bandwidth=0, **changes):
    """Checkpoints go on at this rate, and the SVM has the right memory."""
    pair = protected(env, rate, kind, bandwidth=bandwidth, **changes)
    pair.wait_checkpoints(3, 100)
    floor = last_tick(pair.primary)
    env.note(f'statistics: {pair.stats()}')
    lose_primary(pair, True)
    check_alive(pair.primary, floor)
    if rate:
        check_memory(pair.primary, MIB)


def zero_pages(env):
    """Pages that become zero, alone, so that a message has no others."""
    pair = protected(env, 80, 'zero')
    for _ in range(4):
        before = load_stat(pair.primary)[0]
        wait_for(lambda: load_stat(pair.primary)[0] >
                 before + MIB * PAGES_PER_MIB // 2, 20, 'a pass')
        pair.wait_checkpoints(1)
    expect(pair.stats()['zero-pages'] > MIB * PAGES_PER_MIB, 'pages that were '
           'sent as zero again', pair.stats())
    floor = last_tick(pair.primary)
    lose_primary(pair, False)
    check_alive(pair.primary, floor)
    check_memory(pair.primary, MIB)


def ahead(env, **changes):
    """Most pages are sent while the VM runs."""
    pair = protected(env, rate=20, delay=2000, **changes)
    pair.wait_checkpoints(2)
    before = pair.stats()
    pair.wait_checkpoints(3)
    after = pair.stats()
    env.note(f'statistics: {after}')
    sent = after['pages'] - before['pages']
    early = after['pages-ahead'] - before['pages-ahead']
    expect(early > sent / 3, 'a third of the pages sent ahead', after)
    floor = last_tick(pair.primary)
    lose_primary(pair, False)
    check_alive(pair.primary, floor)
    check_memory(pair.primary, MIB)


def ahead_again(env):
    """What is dirtied faster than it can be copied goes more than once."""
    pair = protected(env, rate=0, mem=384, delay=2000)
    start_load(pair.primary, WIDE_MIB, 128)
    pair.wait_checkpoints(3)
    before, epoch = pair.stats(), pair.committed()
    pair.wait_checkpoints(3)
    after, epochs = pair.stats(), pair.committed() - epoch
    env.note(f'statistics: {after}')
    left = (after['pages'] - before['pages'] - after['pages-ahead'] +
            before['pages-ahead']) / epochs
    expect(0 < left < KEPT_MIB * PAGES_PER_MIB and
           'guest' not in pair.reasons(), 'no more pages left to a '
           'checkpoint than are copied', (left, pair.reasons()))
    check_memory(pair.primary, WIDE_MIB)


def ahead_within(env):
    """What is sent ahead keeps to max-bandwidth."""
    pair = protected(env, rate=20, delay=2000)
    pair.primary.qmp.cmd('migrate-set-parameters', {'max-bandwidth': 1 << 20})
    pair.wait_checkpoints(2)
    before, start = pair.stats()['pages-ahead'], time.monotonic()
    pair.wait_checkpoints(3)
    most = (time.monotonic() - start) * 256
    early = pair.stats()['pages-ahead'] - before
    expect(0 < early <= most, f'at most {most:.0f} pages ahead', early)


def on_demand(env):
    """Checkpoints by command and by a period changed while running."""
    pair = protected(env, delay=600000)
    pair.checkpoint()
    count = pair.committed()
    pair.primary.qmp.cmd('migrate-set-parameters',
                         {'x-checkpoint-delay': 100})
    pair.wait_checkpoints(4, 30)
    reasons = pair.reasons()
    expect(reasons.get('request', 0) >= 1 and reasons.get('period', 0) >= 3,
           'checkpoints by request and by period', reasons)
    stats = pair.stats()
    expect(stats['epoch'] >= count + 4 and stats['pages'] > 0 and
           all(0 < t['median'] <= t['p99'] <= t['max'] and
               0 < t['last'] <= t['max']
               for t in (stats['pause'], stats['held'])),
           'statistics that add up', stats)
    expect(sum(c['bytes'] for c in stats['checkpoints']) == stats['bytes'],
           "the reasons' bytes to be all bytes", stats)
    last = stats['last']
    phases = last['phases']
    pause = sum(phases[name] for name in ('stop', 'sync', 'device', 'copy',
                                          'resume'))
    held = pause + sum(phases[name] for name in ('send', 'commit', 'release'))
    expect(pause == last['pause'] == stats['pause']['last'] and
           held == last['held'] == stats['held']['last'] and
           phases['merge'] > 0 and
           all(stats['phases-total'][n] >= t for n, t in phases.items()),
           'phases that make up the pause, and what output waits', stats)


def events(env):
    """Each checkpoint is told, where that is asked for; HMP has the sums."""
    pair = Pair(env, engine_only(delay=600000))
    pair.start()
    vm = pair.primary
    vm.qmp.cmd('migrate-set-capabilities', {'capabilities': [
        {'capability': 'events', 'state': True}]})
    pair.protect()
    pair.wait_protected()
    mark = vm.qmp.mark()
    pair.checkpoint()
    told = vm.qmp.wait_event(
        'COLO_CHECKPOINT', 30, mark,
        lambda data: data['epoch'] == pair.stats()['epoch'])['data']
    expect(told == pair.stats()['last'] and told['reason'] == 'request',
           'the same as query-colo-status', (told, pair.stats()))
    info = vm.qmp.hmp('info colo')
    expect(f'epoch: {told["epoch"]}' in info and 'request' in info and
           'held' in info, 'info colo to tell the same', info)
    info = pair.secondary.qmp.hmp('info colo')
    expect('mode: secondary' in info and 'pc.ram' in info,
           "info colo to tell how a secondary's memory is kept", info)


def stopped_primary(env, yank):
    """The primary hangs, its sockets stay open: the secondary takes over."""
    pair = protected(env)
    pair.checkpoint()
    floor = last_tick(pair.primary)
    if yank:
        mark = pair.primary.qmp.mark()
        pair.primary.qmp.wait_event('STOP', 30, mark)
    pair.primary.kill(signal.SIGSTOP)
    vm = pair.secondary
    if yank:
        vm.qmp.cmd('yank', {'instances': [{'type': 'migration'}]}, oob=True)
    old = pair.primary
    pair.secondary_failover()
    check_alive(pair.primary, min(floor, last_tick(pair.primary)))
    check_memory(pair.primary, MIB)
    old.kill()


def stopped_secondary(env, yank):
    """The secondary hangs, in a checkpoint: the primary goes on."""
    pair = protected(env)
    pair.wait_checkpoints(2)
    floor = last_tick(pair.primary)
    pair.secondary.kill(signal.SIGSTOP)
    vm = pair.primary
    if yank:
        vm.qmp.cmd('yank', {'instances': [{'type': 'migration'}]}, oob=True)
    hung = pair.secondary
    pair.primary_failover()
    check_alive(vm, floor)
    check_memory(vm, MIB)
    hung.kill()
    pair.resume()
    pair.wait_checkpoints(2)


def stopped_secondary_told(env):
    """It hangs while pages are sent ahead: that does not go unnoticed."""
    pair = protected(env, rate=100, delay=4000)
    pair.checkpoint()
    vm = pair.primary
    floor, mark = last_tick(vm), vm.qmp.mark()
    pair.secondary.kill(signal.SIGSTOP)
    told = vm.qmp.wait_event('COLO_EXIT', 60, mark)['data']
    expect(told['reason'] == 'error', 'the loss of the peer', told)
    hung = pair.secondary
    pair.primary_failover()
    check_alive(vm, floor)
    check_memory(vm, MIB)
    hung.kill()


def clocks(env):
    """The guests' clocks do not drift apart with the checkpoints."""
    pair = protected(env, rate=10, delay=100)
    pair.wait_checkpoints(40, 100)
    pair.primary.qmp.cmd('migrate-set-parameters',
                         {'x-checkpoint-delay': 5000})
    pair.checkpoint()
    distance, error = clock_distance(pair)
    env.note(f'clocks apart after {pair.committed()} checkpoints: '
             f'{distance * 1000:.1f} ms (error {error * 1000:.1f} ms)')
    expect(abs(distance) < 0.01 + error, 'clocks less than 10 ms apart after '
           '40 checkpoints', f'{distance * 1000:.0f} ms')


def stop_and_cont(env):
    """stop and cont of a protected guest; protection goes on."""
    pair = protected(env, rate=0)
    vm = pair.primary
    vm.qmp.cmd('stop')
    status = vm.qmp.cmd('query-status')
    expect(not status['running'], 'the guest is stopped', status)
    vm.qmp.cmd('cont')
    wait_for(lambda: vm.qmp.cmd('query-status')['running'], 30,
             'the guest runs again')
    pair.wait_checkpoints(2)
    floor = last_tick(vm)
    lose_primary(pair, False)
    check_alive(pair.primary, floor)


def resets(env):
    """The PVM is reset again and again, and neither that nor QEMU is stuck."""
    pair = protected(env, rate=0, delay=600000)
    vm = pair.primary
    for _ in range(20):
        mark, epoch = vm.qmp.mark(), pair.committed()
        vm.qmp.cmd('system_reset')
        vm.qmp.wait_event('RESET', 30, mark)
        wait_for(lambda: pair.committed() > epoch, 30, 'a checkpoint')
        wait_for(lambda: vm.qmp.cmd('query-status')['running'], 30,
                 'the guest to run')


def stop_at_start(env):
    """A stop that comes before the first checkpoint is not forgotten."""
    relay = engine_relay(env)
    pair = Pair(env, engine_only(ports={9998: 19998}))
    pair.start()
    both = pair.primary, pair.secondary
    relay.arm(Fault('stall', False, 0, READY))
    pair.protect()
    relay.wait_fired()
    pair.primary.qmp.cmd('stop')
    relay.release()
    pair.wait_protected()
    for vm in both:
        status = vm.qmp.cmd('query-status')
        expect(not status['running'], f'{vm.name} to stand still', status)
    pair.primary.qmp.cmd('cont')
    for vm in both:
        wait_for(lambda vm=vm: vm.qmp.cmd('query-status')['running'], 30,
                 f'{vm.name} to run')
    floor = last_tick(pair.primary)
    lose_primary(pair, False)
    check_alive(pair.primary, floor)


def standing_still(env, **changes):
    """A pair whose PVM stands still for a checkpoint, until the relay lets go.

    More is dirty than is copied while the VM stands still, so it is sent
    meanwhile, and the relay stops that. Also returns a mark from before it.
    """
    relay = engine_relay(env)
    pair = protected(env, rate=0, mem=256, delay=600000, ports={9998: 19998},
                     **changes)
    vm = pair.primary
    vm.qmp.cmd('migrate-set-parameters', {'max-bandwidth': SLOW})
    start_load(vm, FULL_MIB, 400)
    wait_for(lambda: load_stat(vm)[0] > FULL_MIB * PAGES_PER_MIB, 60,
             'all of the memory to be written')
    relay.arm(Fault('stall', True, 8 * SLOW))
    mark = vm.qmp.mark()
    vm.qmp.cmd('x-colo-checkpoint')
    relay.wait_fired()
    return relay, pair, mark


def reset_inside(env):
    """A reset that is asked for within a checkpoint comes after it."""
    relay, pair, mark = standing_still(env)
    vm = pair.primary
    since = len(vm.console.text)
    vm.qmp.wait_event('STOP', 30, mark)
    vm.qmp.cmd('system_reset')
    for _ in range(10):
        vm.qmp.cmd('query-status')
    expect(not vm.qmp.count('RESET', mark), 'no reset within a checkpoint',
           vm.qmp.count('RESUME', mark))
    relay.release()
    vm.qmp.wait_event('RESET', 30, mark)
    vm.console.wait(r'^guestd ready', 60, since)
    pair.checkpoint()
    floor = last_tick(vm)
    lose_primary(pair, False)
    check_alive(pair.primary, floor)


def copy_limit(env):
    """What is dirty is copied up to the limit, and the guest goes on."""
    relay, pair, mark = standing_still(
        env, extra=['-global', 'migration.x-colo-copy-limit=192M'])
    epoch = pair.committed()
    pair.primary.qmp.wait_event('RESUME', 30, mark)
    expect(pair.committed() == epoch, 'the checkpoint still under way',
           pair.committed())
    relay.release()
    pair.wait_checkpoints(1)
    lose_primary(pair, False)
    check_memory(pair.primary, FULL_MIB)


def copy_limit_refused(env):
    """Too small a limit is an error before anything is sent."""
    pair = Pair(env, engine_only(
        extra=['-global', 'migration.x-colo-copy-limit=4096']))
    pair.start()
    try:
        pair.protect()
        refused = 'nothing'
    except QMPError as error:
        refused = str(error)
    expect('x-colo-copy-limit is 4096 bytes' in refused, 'an error that names '
           'option and value', refused)
    check_alive(pair.primary, last_tick(pair.primary))


def stops(vm, since):
    """What has been told of the VM's stops since a mark"""
    return [name for name in ('STOP', 'RESUME')
            for _ in range(vm.qmp.count(name, since))]


def quiet(env):
    """With x-colo-stop-events=off what is no checkpoint's is told, and only it.
    """
    pair = protected(env, delay=50, extra=QUIET)
    both = pair.primary, pair.secondary
    for vm, told in (pair.primary, []), (pair.secondary, ['RESUME']):
        seen = stops(vm, pair.mark[vm])
        expect(seen == told, f'{vm.name} to tell {told} when protection '
               'begins', seen)
    marks = {vm: vm.qmp.mark() for vm in both}
    epoch = pair.committed()
    while pair.committed() < epoch + 20:
        for vm in both:
            status = vm.qmp.cmd('query-status')
            expect(status['running'] and status['status'] == 'running',
                   f'{vm.name} to run', status)
    for vm in both:
        expect(not stops(vm, marks[vm]), f'{vm.name} is silent',
               stops(vm, marks[vm]))
    for command, event in ('stop', 'STOP'), ('cont', 'RESUME'):
        pair.primary.qmp.cmd(command)
        for vm in both:
            vm.qmp.wait_event(event, 30, marks[vm])
            wait_for(lambda vm=vm: vm.qmp.cmd('query-status')['running'] ==
                     (command == 'cont'), 30, f'{vm.name} to follow {command}')
    pair.checkpoint()
    survivor, mark = pair.secondary, marks[pair.secondary]
    pair.lose('primary')
    floor = last_tick(survivor)
    check_alive(survivor, floor)
    expect(stops(survivor, mark) == ['STOP', 'RESUME'], 'one stop, the '
           "user's", stops(survivor, mark))


def machine(env, name):
    """Devices that load their state once in a stock QEMU do so again."""
    pair = protected(env, extra=['-machine', name])
    pair.wait_checkpoints(3)
    floor = last_tick(pair.primary)
    pair.lose('primary')
    check_alive(pair.primary, floor)


def quiet_inside(env):
    """A stop within a checkpoint that nobody was told of is told after it."""
    relay, pair, mark = standing_still(env, extra=QUIET)
    vm = pair.primary
    expect(vm.qmp.cmd('query-status')['running'], 'the guest is taken to run',
           vm.qmp.cmd('query-status'))
    vm.qmp.cmd('stop')
    expect(not stops(vm, mark), 'no stop within a checkpoint', stops(vm, mark))
    relay.release()
    vm.qmp.wait_event('STOP', 30, mark)
    wait_for(lambda: vm.qmp.cmd('query-status')['status'] == 'paused', 30,
             'the guest is stopped')
    expect(stops(vm, mark) == ['STOP'], 'one stop', stops(vm, mark))


def quiet_lost(env):
    """A guest that powers off while nobody has decided yet stands still."""
    pair = protected(env, extra=QUIET)
    vm = pair.primary
    pair.kill_secondary()
    vm.qmp.wait_event('COLO_EXIT', 30, pair.mark[vm])
    mark = vm.qmp.mark()
    expect(vm.qmp.cmd('query-status')['running'], 'the guest to run', False)
    vm.console.send('x poweroff')
    vm.qmp.wait_event('STOP', 60, mark)
    status = vm.qmp.cmd('query-status')
    expect(not status['running'], 'the guest to stand still', status)


def lost_channel(env):
    """A multifd channel ends, the link does not: the secondary can take over.

    It may be waiting for pages that were to come by that channel.
    """
    relay = engine_relay(env)
    pair = protected(env, multifd=2, ports={9998: 19998})
    pair.wait_checkpoints(2)
    floor, vm = last_tick(pair.primary), pair.secondary
    relay.end_last()
    vm.qmp.wait_event('COLO_EXIT', 30, pair.mark[vm])
    pair.kill_primary()
    pair.secondary_failover()
    check_alive(pair.primary, floor)
    check_memory(pair.primary, MIB)


def quit_side(env, side):
    """quit on one side ends that QEMU cleanly; the other one survives."""
    pair = protected(env)
    pair.wait_checkpoints(2)
    if side == 'primary':
        status = pair.primary.quit()
        pair.secondary_failover()
    else:
        status = pair.secondary.quit()
        pair.primary_failover()
    expect(status == 0, 'quit ends QEMU with status 0', status)
    check_alive(pair.primary, 0)
    check_memory(pair.primary, MIB)


def cancel(env):
    """migrate_cancel ends protection or is refused; it never hangs."""
    pair = protected(env)
    vm = pair.primary
    mark = vm.qmp.mark()
    try:
        vm.qmp.cmd('migrate_cancel')
        vm.qmp.wait_event('COLO_EXIT', 30, mark)
        wait_for(lambda: vm.qmp.cmd('query-migrate')['status'] not in (
            'cancelling', 'colo'), 30, lambda: 'an end of the migration, '
            f'seen {vm.qmp.cmd("query-migrate")}')
    except QMPError as error:
        env.note(f'refused: {error.desc}')
        pair.wait_checkpoints(2)
    check_alive(vm, 0)
    check_memory(vm, MIB)


def heartbeat_lie(env):
    """The primary is told to go on alone while the peer still answers."""
    pair = protected(env)
    pair.wait_checkpoints(2)
    vm, peer = pair.primary, pair.secondary
    pair.primary_failover()
    check_alive(vm, 0)
    wait_for(lambda: not peer.running() or
             not peer.qmp.cmd('query-status')['running'], 30,
             'the secondary stops')
    check_memory(vm, MIB)


def end_of_migration(vm):
    """What query-migrate says once the migration is over."""
    state = vm.qmp.cmd('query-migrate')
    return state if state.get('status') in ('failed', 'completed',
                                            'cancelled') else None


def one_sided(env, side):
    """x-colo on one side only: an error, and the primary's guest runs on."""
    pair = Pair(env, engine_only())
    pair.start()
    commands = {'primary': pair.doc.primary_setup,
                'secondary': pair.doc.secondary_setup}
    caps = commands['primary'][-2]
    assert caps['execute'] == 'migrate-set-capabilities'
    off = {'capabilities': [{'capability': 'x-colo', 'state': False}]}
    pair.secondary.qmp.cmd('migrate-set-capabilities', off)
    if side == 'primary':
        pair.primary.qmp.execute(caps)
    else:
        pair.secondary.qmp.execute(caps)
    pair.primary.qmp.cmd('migrate', {'uri': 'tcp:127.0.0.2:9998'})
    vm = pair.primary
    wait_for(lambda: end_of_migration(vm), 40, lambda: 'an end of the '
             f'migration, seen {vm.qmp.cmd("query-migrate")}')
    env.note(f'{vm.qmp.cmd("query-migrate").get("status")}: '
             f'{vm.qmp.cmd("query-migrate").get("error-desc")}')
    survivor = vm
    if vm.qmp.cmd('query-migrate')['status'] == 'completed':
        survivor = pair.secondary
    check_alive(survivor, 0)


def encrypted(env, side, **changes):
    """TLS on all channels of the checkpoints, before and after a failover."""
    relay = TLSRelay(('0.0.0.0', 19998), ('127.0.0.1', 9998))
    env.callback(relay.close)
    failover(env, side, True, again=True, tls=True, ports={9998: 19998},
             **changes)
    env.note(f'{relay.records} TLS records')
    relay.check()


def wrong_key(env):
    """Sides whose keys differ: an error, and the primary's guest runs on."""
    pair = Pair(env, engine_only(tls=True))
    pair.start()
    other = Credentials(env.folder, 'other')
    give = pair.credentials.give
    pair.credentials.give = lambda vm, end: \
        (other.give if end == 'client' else give)(vm, end)
    pair.protect()
    vm = pair.primary
    state = wait_for(lambda: end_of_migration(vm), 30, lambda: 'an end of the '
                     f'migration, seen {vm.qmp.cmd("query-migrate")}')
    expect(state['status'] == 'failed' and 'TLS' in state['error-desc'],
           'a migration that failed, because of TLS', state)
    check_alive(vm, 0)
    # the secondary still waits for one with the right key
    pair.credentials.give = give
    pair.protect()
    pair.wait_protected()


FAILOVERS = (
    # name, side, inside, again, options
    ('plain-primary', 'primary', False, True, {}),
    ('plain-primary-inside-smp2', 'primary', True, False, {'smp': 2}),
    ('plain-secondary-smp2', 'secondary', False, True, {'smp': 2}),
    ('plain-secondary-inside', 'secondary', True, False, {}),
    ('multifd-primary-smp2', 'primary', False, True,
     {'multifd': 2, 'smp': 2}),
    ('multifd-secondary-inside', 'secondary', True, False, {'multifd': 2}),
    ('zlib-primary-inside', 'primary', True, False,
     {'multifd': 2, 'compression': 'zlib', 'kind': 'text'}),
    ('zlib-secondary-smp2', 'secondary', False, False,
     {'multifd': 2, 'compression': 'zlib', 'smp': 2}),
)

for name, side, inside, again, changes in FAILOVERS:
    suite.add('failover/' + name, 80, failover, side, inside, again,
              **changes)
suite.add('cut/in-pages', 60, cut_inside_message, 'primary', 100000)
suite.add('cut/in-committed', 60, cut_inside_message, 'secondary',
          HEADER_SIZE + 1)
suite.add('cut/channel', 60, lost_channel)
suite.add('rounds', 100, rounds)
suite.add('rate/idle', 50, dirty_rate, 0)
suite.add('rate/words', 60, dirty_rate, 200, 'word')
suite.add('rate/zero', 80, zero_pages)
suite.add('rate/full', 60, dirty_rate, 120)
suite.add('rate/full-smp2-multifd', 60, dirty_rate, 120, smp=2, multifd=2)
suite.add('rate/more-than-the-link', 120, dirty_rate, 400,
          bandwidth=16 << 20)
suite.add('ahead/random', 60, ahead)
suite.add('ahead/multifd', 60, ahead, multifd=2)
suite.add('ahead/again', 60, ahead_again)
suite.add('ahead/bandwidth', 60, ahead_within)
suite.add('on-demand', 50, on_demand)
suite.add('no-flush', 50, no_flush)
suite.add('events', 50, events)
suite.add('stopped/primary', 60, stopped_primary, False)
suite.add('stopped/primary-yank', 60, stopped_primary, True)
suite.add('stopped/secondary', 60, stopped_secondary, False)
suite.add('stopped/secondary-told', 120, stopped_secondary_told)
suite.add('stopped/secondary-yank', 60, stopped_secondary, True)
suite.add('clocks', 120, clocks)
suite.add('command/stop-cont', 60, stop_and_cont)
suite.add('command/resets', 120, resets)
suite.add('command/reset-inside', 120, reset_inside)
suite.add('command/stop-at-start', 60, stop_at_start)
suite.add('copy-limit', 120, copy_limit)
suite.add('copy-limit/refused', 40, copy_limit_refused)
suite.add('machine/q35', 60, machine, 'q35')
suite.add('quiet', 60, quiet)
suite.add('quiet/inside', 120, quiet_inside)
suite.add('quiet/lost', 60, quiet_lost)
suite.add('command/quit-primary', 60, quit_side, 'primary')
suite.add('command/quit-secondary', 60, quit_side, 'secondary')
suite.add('command/cancel', 60, cancel)
suite.add('command/lost-heartbeat-while-alive', 60, heartbeat_lie)
suite.add('one-sided/primary', 60, one_sided, 'primary')
suite.add('one-sided/secondary', 60, one_sided, 'secondary')

suite.add('tls/primary', 80, encrypted, 'primary')
suite.add('tls/secondary', 80, encrypted, 'secondary')
suite.add('tls/multifd-primary', 80, encrypted, 'primary', multifd=2)
suite.add('tls/multifd-secondary', 80, encrypted, 'secondary', multifd=2)
suite.add('tls/wrong-key', 60, wrong_key)

if __name__ == '__main__':
    tap.main(suite)
