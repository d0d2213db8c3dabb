#!/usr/bin/python3
# A pair that libvirt runs, by contrib/libvirt: defined, started, protected,
# failed over and protected again through virsh
#
# SPDX-License-Identifier: GPL-2.0-or-later

import difflib
import os
import re
import subprocess

from colo import tap
from colo.guest import DISK_SIZE, qemu_img
from colo.libvirt import (COLO_QMP, CONTRIB, NAME, STEPS, Libvirtd,
                          LibvirtPair)
from colo.pair import Options
from colo.rounds import check_devices, finish, lose, protect_again, serve
from colo.util import TestError, build_dir, expect, wait_for

suite = tap.Suite()
MIB = 1 << 20
# VIR_DOMAIN_RUNNING, VIR_DOMAIN_PAUSED, VIR_DOMAIN_SHUTOFF
STATES = {'running': '1', 'paused': '3', 'shut off': '5'}
# What libvirt must not do to a protected guest, and what it says
COLO = 'this VM is protected by COLO, which forbids'
REFUSED = (
    ('managedsave', [NAME], COLO),
    ('save', [NAME, 'FILE'], COLO),
    ('dump', [NAME, 'FILE', '--live'], COLO),
    ('snapshot-create-as', [NAME, 'now'], COLO),
    ('snapshot-create-as', [NAME, 'now', '--disk-only'], COLO),
    ('migrate', ['--live', '--unsafe', NAME, 'SECONDARY'], 'already'),
    ('migrate', ['--live', '--unsafe', '--xml', 'XML', NAME, 'OTHER'], COLO),
    ('attach-disk', [NAME, 'IMAGE', 'vdb', '--subdriver', 'qcow2'],
     'not allowed while migrating'),
    ('detach-disk', [NAME, 'vda'], 'not allowed while migrating'),
    ('blockresize', [NAME, 'vda', '1G'], 'Permission conflict'),
)


def new_pair(env):
    return LibvirtPair(env, Options(nic='virtio-net-pci', disk='virtio',
                                    mem=256, delay=1000, boot_first=True))


class Lifecycle:
    """What libvirt says happens to the domains of a host"""

    def __init__(self, env, libvirtd):
        self.path = libvirtd.path('events')
        with open(self.path, 'w', encoding='utf-8') as out:
            self.proc = subprocess.Popen(
                ['stdbuf', '-oL', 'virsh', '--quiet', 'event', '--event',
                 'lifecycle', '--loop'], env=libvirtd.env, stdout=out,
                stdin=subprocess.DEVNULL)
        env.callback(self.close)

    def close(self):
        self.proc.kill()
        self.proc.wait()

    def seen(self, *kinds):
        with open(self.path, encoding='utf-8') as f:
            return [word for word in re.findall(
                r"'lifecycle' for domain \S+: (\w+)", f.read())
                if word in kinds]

    def wait(self, *wanted):
        """The domain has been suspended and stopped as @wanted, no oftener."""
        kinds = 'Suspended', 'Stopped', 'Crashed'
        wait_for(lambda: len(self.seen(*kinds)) >= len(wanted), 10,
                 lambda: f'{wanted}; seen {self.seen(*kinds)}')
        expect(self.seen(*kinds) == list(wanted), wanted, self.seen(*kinds))


def check_state(vm, state, reason):
    """What an operator is told of a domain."""
    libvirtd = vm.libvirtd
    wait_for(lambda: vm.state() == f'{state} ({reason})', 10,
             lambda: f'{vm.name} {state} ({reason}); seen {vm.state()}')
    listed = libvirtd.virsh('list', '--all').split(None, 2)
    expect(listed[1:] == [NAME, state], f'{NAME} listed as {state}', listed)
    stats = libvirtd.virsh('domstats', NAME)
    expect(f'state.state={STATES[state]}\n' in stats, f'domstats say {state}',
           stats)


def check_running(pair):
    for vm in pair.primary, pair.secondary:
        check_state(vm, 'running', 'unpaused')


def life(env):
    """From define to undefine, both sides lost and replaced."""
    pair = new_pair(env)
    watch = [Lifecycle(env, host.libvirtd) for host in pair.hosts]
    serve(pair, rate=8 * MIB)
    check_running(pair)
    for side in 'primary', 'secondary':
        pair.wait_checkpoints(3)
        lost = pair.primary if side == 'primary' else pair.secondary
        lose(pair, side)
        check_state(lost, 'shut off', 'crashed')
        check_state(pair.primary, 'running', 'unpaused')
        protect_again(pair)
        check_running(pair)
        check_devices(pair)
    finish(pair)
    pair.clean_up()
    # A secondary starts paused; a primary is paused once, to be protected.
    watch[0].wait(*['Suspended', 'Stopped'] * 3)
    watch[1].wait('Suspended', 'Suspended', 'Suspended', 'Stopped')


def probed(env):
    """libvirt finds out about this QEMU, and has nothing to say about it."""
    pair = new_pair(env)
    pair.start_primary()
    libvirtd = pair.phost.libvirtd
    emulator = os.path.join(build_dir(), 'qemu-system-x86_64')
    known = libvirtd.virsh('domcapabilities', '--emulatorbin', emulator,
                           '--machine', 'pc-i440fx-10.0', '--virttype', 'qemu')
    expect(f'<path>{emulator}</path>' in known, 'the emulator to be known',
           known[:300])
    said = libvirtd.warnings('(?i)capabilit|qemu.*(fail|unable|unknown)')
    expect(not said, 'no warning about QEMU', said)


def other_host(env, pair):
    """A third host, and what the guest's definition would be there"""
    libvirtd = Libvirtd(os.path.join(env.folder, 'C'))
    env.callback(libvirtd.close)
    libvirtd.wait()
    images = libvirtd.path('var/lib/libvirt/images')
    os.makedirs(images)
    qemu_img('create', '-q', '-f', 'qcow2',
             os.path.join(images, 'guest.qcow2'), DISK_SIZE)
    path = os.path.join(env.folder, 'there.xml')
    with open(path, 'w', encoding='utf-8') as f:
        f.write(pair.phost.libvirtd.virsh('dumpxml', '--migratable', NAME)
                .replace(pair.phost.tap, 'tapC'))
    return {'OTHER': libvirtd.uri, 'XML': path}


def refused(env):
    """What a protected guest can't have is refused, and changes nothing."""
    pair = new_pair(env)
    pair.bring_up()
    libvirtd = pair.phost.libvirtd
    words = {'SECONDARY': pair.shost.libvirtd.uri,
             **other_host(env, pair),
             'FILE': os.path.join(env.folder, 'state'),
             'IMAGE': pair.image(pair.phost, 'colo', 'guest-active.qcow2')}
    for command, args, why in REFUSED:
        done = libvirtd.run('virsh', command, *[words.get(a, a) for a in args])
        expect(done.returncode and why in done.stderr, f'{command} refused: '
               f'{why}', done.stdout + done.stderr)
        env.note(f'{command}: {done.stderr.strip().splitlines()[-1]}')
        pair.wait_checkpoints(2)
        expect(pair.primary.state().startswith('running'), 'the guest runs',
               pair.primary.state())


def pause(env):
    """A user's suspend and resume are the guest's, on both sides."""
    pair = new_pair(env)
    pair.bring_up()
    both = pair.primary, pair.secondary
    pair.phost.libvirtd.virsh('suspend', NAME)
    check_state(pair.primary, 'paused', 'user')
    wait_for(lambda: pair.secondary.state().startswith('paused'), 30,
             lambda: f'the secondary paused; seen {pair.secondary.state()}')
    pair.phost.libvirtd.virsh('resume', NAME)
    for vm in both:
        wait_for(lambda vm=vm: vm.state() == 'running (unpaused)', 30,
                 lambda vm=vm: f'{vm.name} running; seen {vm.state()}')
    pair.wait_checkpoints(2)


def power(env):
    """A guest resets and powers off: so do both domains."""
    pair = new_pair(env)
    pair.bring_up()
    vm = pair.primary
    since = len(vm.console.text)
    pair.phost.libvirtd.virsh('reset', NAME)
    vm.console.wait(r'^guestd ready', 60, since)
    pair.wait_checkpoints(2)
    check_running(pair)
    vm.console.send('x poweroff')
    for vm in pair.primary, pair.secondary:
        wait_for(lambda vm=vm: vm.state() == 'shut off (shutdown)', 30,
                 lambda vm=vm: f'{vm.name} shut off; seen {vm.state()}')


def daemon(env):
    """libvirtd comes and goes, on both hosts, and protection stays."""
    pair = new_pair(env)
    serve(pair, rate=8 * MIB)
    for host in pair.hosts:
        host.libvirtd.restart()
    for vm in pair.primary, pair.secondary:
        vm.watch_again()
    check_running(pair)
    pair.wait_checkpoints(3)
    lose(pair, 'primary')
    check_state(pair.primary, 'running', 'unpaused')
    finish(pair)


def off(env):
    """Protection is taken off, the secondary destroyed, the guest serves."""
    pair = new_pair(env)
    serve(pair, rate=8 * MIB)
    second = pair.secondary
    pair.steps(pair.primary, 'unprotect')
    pair.secondary = None
    check_state(pair.primary, 'running', 'unpaused')
    expect(not second.state().startswith('running'), 'the secondary does not '
           'run', second.state())
    second.destroy()
    check_state(second, 'shut off', 'destroyed')
    pair.clients.wait_progress(60)
    # what libvirt migrates for is possible again
    pair.phost.libvirtd.virsh('dump', NAME, os.path.join(env.folder, 'core'),
                              '--live')
    check_state(pair.primary, 'running', 'unpaused')
    pair.clients.wait_progress(60)
    protect_again(pair)
    finish(pair)


def not_yet(env):
    """Nobody to be protected by: the guest serves, and can be protected."""
    pair = new_pair(env)
    pair.start_primary()
    pair.clients.wait_reachable()
    pair.clients.start_usual(rate=8 * MIB)
    failed = ''
    try:
        pair.steps(pair.primary, 'protect', pair.shost)
    except TestError as error:
        failed = str(error)
    expect('Connection refused' in failed, 'protect.qmp fails', failed)
    pair.steps(pair.primary, 'unprotect')
    pair.clients.wait_progress(60)
    pair.start_secondary()
    pair.protect()
    pair.wait_protected()
    lose(pair, 'primary')
    finish(pair)


def usage(env):
    """What colo-qmp is not given it asks for."""
    pair = new_pair(env)
    libvirtd = pair.phost.libvirtd
    wrong = os.path.join(env.folder, 'wrong.qmp')
    with open(wrong, 'w', encoding='utf-8') as f:
        f.write('{"execute": "no-such"}\n')
    for args, status, why in (
            ((NAME,), 2, 'DOMAIN FILE'),
            ((NAME, '/nowhere.qmp'), None, 'nowhere.qmp'),
            ((NAME, STEPS['secondary']), 1, "the other host's address"),
            ((NAME, STEPS['unprotect']), 1, 'failed to get domain'),
            ((NAME, wrong), 1, 'The command no-such has not been found')):
        if args[-1] == wrong:
            pair.start_primary()
        done = libvirtd.run(COLO_QMP, *args)
        expect(done.returncode and status in (None, done.returncode) and
               why in done.stderr, f'colo-qmp {args}: {why}',
               f'{done.returncode} {done.stderr}')


def differing(one, other):
    """Lines of two files of contrib's that only one has, notes left out"""
    texts = []
    for name in one, other:
        with open(os.path.join(CONTRIB, name), encoding='utf-8') as f:
            texts.append(re.sub('^<!--.*?-->\n', '', f.read(),
                                flags=re.S).splitlines())
    return [line for line in difflib.ndiff(*texts) if line[0] in '-+']


def variants(_env):
    """The definitions agree in all that they have to."""
    for role in 'primary', 'secondary':
        for line in differing(f'{role}-kvm.xml', f'{role}-tcg.xml'):
            expect('<domain type=' in line or 'kvmclock' in line,
                   f'no other difference between {role}-kvm and -tcg', line)
    for kind in 'kvm', 'tcg':
        for line in differing(f'primary-{kind}.xml', f'secondary-{kind}.xml'):
            expect('qemu:arg' in line or '<!--' in line,
                   'primary and secondary to be the same machine', line)


suite.add('life', 240, life)
suite.add('probed', 60, probed)
suite.add('refused', 150, refused)
suite.add('pause', 100, pause)
suite.add('power', 100, power)
suite.add('daemon', 150, daemon)
suite.add('off', 150, off)
suite.add('not-yet', 120, not_yet)
suite.add('usage', 30, usage)
suite.add('variants', 10, variants)

if __name__ == '__main__':
    tap.main(suite)
