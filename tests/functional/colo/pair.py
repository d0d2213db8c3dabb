# A primary and a secondary, by the documented procedure
#
# The command lines and QMP commands come from QEMU's document (doc.py). What
# differs is what a machine forces (acceleration, paths, addresses, the bridge
# helper, the image size, the guest's kernel) and what a variant asks for
# (another NIC or disk, no proxy, no disk, multifd).
#
# SPDX-License-Identifier: GPL-2.0-or-later

import copy
import os
import re
import shlex
import shutil
from dataclasses import dataclass, field

from .clients import Clients
from .doc import Document
from .faults import name_nodes
from .guest import (DISK_SIZE, GUEST_IP, Guest, make_disk, qemu_img,
                    read_records)
from .net import Bridge, Capture
from .qmp import QMPError
from .tls import Credentials
from .util import TestError, expect, wait_for
from .vm import VM, wait_guest

DISK_COMMANDS = ('nbd-server-start', 'nbd-server-add', 'nbd-server-stop',
                 'x-blockdev-change', 'drive-mirror', 'block-job-cancel',
                 'stop')
PROXY_COMMANDS = ('object-add', 'object-del', 'chardev-add', 'chardev-remove')
PEER_COMMANDS = ('drive-mirror', 'migrate', 'human-monitor-command')
FILTERS = ('filter-mirror', 'filter-redirector', 'filter-rewriter',
           'colo-compare')


@dataclass
class Options:
    """What a pair looks like; as it stands: as documented"""
    nic: str = 'rtl8139'
    disk: str = 'ide'
    proxy: bool = True
    smp: int = 1
    mem: int = 512
    delay: int = 0              # x-checkpoint-delay in ms, 0: the default
    multifd: int = 0            # channels
    compression: str = ''
    tls: bool = False           # the migration's channels, by pre-shared keys
    bandwidth: int = 0          # bytes a second, 0: the default
    boot_first: bool = False    # boot before protection starts
    tick: int = 0               # ms
    werror: str = ''            # the virtio disk's policy, '': the default
    names: bool = False         # give block nodes names, see faults.py
    extra: list = field(default_factory=list)
    # (from port, to port) for the secondary's way to the primary (9003,
    # 9004) and the primary's to the secondary (9998, 9999), through relays.
    ports: dict = field(default_factory=dict)


def engine_only(**changes):
    """Options of a pair with neither network nor disk."""
    options = {'nic': '', 'disk': '', 'proxy': False, 'mem': 128, 'tick': 50,
               'delay': 300, 'boot_first': True, **changes}
    return Options(**options)


class Host:
    """One of the two machines: an address, a tap, a folder for images"""

    def __init__(self, letter, ip, folder):
        self.letter = letter
        self.ip = ip
        self.tap = 'tap' + letter
        self.folder = os.path.join(folder, letter)
        os.makedirs(self.folder)

    def image(self, name):
        return os.path.join(self.folder, name + '.qcow2')


def pairs_of(words):
    """A command line as (option, value or None)."""
    result = []
    for word in words:
        if word.startswith('-'):
            result.append((word, None))
        else:
            result[-1] = (result[-1][0], word)
    return result


class Pair:
    """Two hosts, the VMs on them, and the clients of the guest"""

    runs = 'two QEMUs start'

    def __init__(self, env, options):
        self.env = env
        self.options = options
        self.doc = Document()
        self.hosts = [Host('A', '127.0.0.1', env.folder),
                      Host('B', '127.0.0.2', env.folder)]
        self.phost, self.shost = self.hosts
        self.primary = self.secondary = None
        self.started = {}
        self.count = 0
        self.survives_as = 'running'
        self.mark = {}
        self.credentials = Credentials(env.folder) if options.tls else None
        legacy = options.nic in ('rtl8139', 'e1000')
        self.guest = Guest('full' if legacy else 'cloud')
        self.bridge = self.clients = None
        env.reporters.append(self.report_guests)
        if options.nic:
            self.make_network()
        if options.disk:
            self.make_images()

    def make_network(self):
        self.bridge = Bridge()
        self.env.callback(self.bridge.close)
        for host in self.hosts:
            self.bridge.add_tap(host.tap)
        self.clients = Clients(self.bridge)
        self.env.callback(self.clients.close)
        self.env.reporters.append(self.clients.report)
        if os.environ.get('COLO_TEST_CAPTURE'):
            Capture(['client0', *self.bridge.taps], self.env.folder)

    def make_images(self):
        first = self.hosts[0].image('primary')
        make_disk(first)
        for host in self.hosts:
            if host.image('primary') != first:
                shutil.copy(first, host.image('primary'))
            for command in self.doc.images:
                words = shlex.split(command.replace('$imagefolder',
                                                    host.folder))
                qemu_img(*words[1:-1], DISK_SIZE)

    # Command lines

    def disk_name(self):
        return {'ide': 'sda', 'virtio': 'vda', '': None}[self.options.disk]

    def guest_args(self):
        opts = self.options
        return self.guest.args(GUEST_IP if opts.nic else None,
                               self.disk_name(), opts.tick)

    def command_line(self, words, host, primary_ip):
        args = []
        for option, value in pairs_of(words):
            args += self.option(option, value, host, primary_ip)
        if not self.options.nic:
            args += ['-nic', 'none']
        if self.options.disk == 'virtio':
            policy = self.options.werror and f',werror={self.options.werror}'
            args += ['-object', 'iothread,id=ioblk', '-device',
                     'virtio-blk-pci,drive=colo-disk0,iothread=ioblk' + policy]
        return args + self.guest_args() + self.options.extra

    def accel(self):
        """
        QEMU 10.0's TCG asserts once in some tens of SMP boots when vCPUs have
        threads of their own (iotlb_to_section(), the memory map changing under
        a TLB entry), COLO or not. COLO_TEST_MTTCG=1 takes the risk.
        """
        if self.options.smp > 1 and not os.environ.get('COLO_TEST_MTTCG'):
            return 'tcg,thread=single'
        return 'tcg'

    def option(self, option, value, host, primary_ip):
        """One documented option as this pair needs it."""
        opts = self.options
        if option == '-enable-kvm':
            return ['-accel', self.accel()]
        if option == '-S':
            return [] if opts.boot_first else ['-S']
        if opts.boot_first and option == '-object' and \
                host is self.phost and not value.startswith('filter-rew'):
            # They come with the protection of a running guest.
            return []
        if option in ('-m', '-smp'):
            return [option, str(opts.mem if option == '-m' else opts.smp)]
        if (option == '-drive' and not opts.disk) or \
                (option == '-netdev' and not opts.nic) or \
                (option in ('-chardev', '-object') and not opts.proxy):
            return []
        value = value.replace('$imagefolder', host.folder)
        value = value.replace('$primary_ip', primary_ip)
        if option == '-netdev':
            value = (f'tap,id=hn0,vhost=off,ifname={host.tap},script=no,'
                     'downscript=no')
        elif value.startswith('rtl8139,'):
            if not opts.nic:
                return []
            value = value.replace('rtl8139', opts.nic)
        elif option == '-object' and self.vnet_hdr() and \
                value.split(',')[0] in FILTERS:
            value += ',vnet_hdr_support=on'
        elif option == '-drive':
            if opts.disk == 'virtio':
                value = value.replace('if=ide', 'if=none')
            if opts.names:
                value = name_nodes(value)
        elif option == '-incoming' and opts.multifd:
            value = 'defer'
        elif option == '-chardev' and 'reconnect-ms' in value:
            value = self.redirect(value)
        return [option, value]

    def vnet_hdr(self):
        return self.options.nic.startswith('virtio')

    def redirect(self, text):
        for port, other in self.options.ports.items():
            text = text.replace(f'port={port}', f'port={other}')
            text = text.replace(f':{port}', f':{other}')
        return text

    # QMP procedures

    def applies(self, command):
        """Whether this pair has what a documented command is about."""
        name = command['execute']
        if name == 'qmp_capabilities':
            return False
        if name == 'human-monitor-command' or name in DISK_COMMANDS:
            return bool(self.options.disk)
        if name in PROXY_COMMANDS:
            return self.options.proxy
        return True

    def adapt(self, command):
        """A documented command with this pair's addresses and variant."""
        command = copy.deepcopy(command)
        args = command.get('arguments', {})
        name = command['execute']
        for key, value in args.items():
            if name in PEER_COMMANDS and isinstance(value, str):
                for ip in '127.0.0.1', '127.0.0.2':
                    value = value.replace(ip, self.shost.ip)
                args[key] = self.redirect(value)
        if name == 'object-add' and self.vnet_hdr() and \
                args['qom-type'] in FILTERS:
            args['vnet_hdr_support'] = True
        return command

    def run(self, vm, commands):
        for command in commands:
            if self.applies(command):
                self.execute(vm, self.adapt(command))

    def execute(self, vm, command):
        name = command['execute']
        if name == 'migrate':
            self.mark = {v: v.qmp.mark() for v in (self.primary,
                                                   self.secondary)}
            self.before_migrate()
        mark = vm.qmp.mark()
        result = vm.qmp.execute(command)
        if name == 'human-monitor-command':
            expect(result.strip() in ('', 'OK'), f'{command["arguments"]} '
                   'succeeds', result)
        if name == 'drive-mirror':
            vm.qmp.wait_event('BLOCK_JOB_READY', 60, mark)
        if name == 'block-job-cancel':
            vm.qmp.wait_event('BLOCK_JOB_COMPLETED', 60, mark)

    def before_migrate(self):
        """What a variant sets on both sides before the migration."""
        opts = self.options
        params = {}
        if opts.delay:
            params['x-checkpoint-delay'] = opts.delay
        if opts.bandwidth:
            params['max-bandwidth'] = opts.bandwidth
        if opts.multifd:
            params['multifd-channels'] = opts.multifd
        if opts.compression:
            params['multifd-compression'] = opts.compression
        for vm in self.secondary, self.primary:
            if opts.multifd:
                vm.qmp.cmd('migrate-set-capabilities', {'capabilities': [
                    {'capability': 'multifd', 'state': True}]})
            if self.credentials:
                params['tls-creds'] = self.credentials.give(
                    vm, 'client' if vm is self.primary else 'server')
            if params:
                vm.qmp.cmd('migrate-set-parameters', params)
        if opts.multifd:
            self.secondary.qmp.cmd('migrate-incoming',
                                   {'uri': 'tcp:0.0.0.0:9998'})

    # Steps of the procedure

    def new_vm(self, host, role, words, primary_ip):
        self.count += 1
        vm = VM(f'{host.letter}{self.count}-{role}', self.env.folder,
                self.command_line(words, host, primary_ip))
        self.started[vm] = (host, role)
        return self.env.add_vm(vm)

    def start(self):
        """Both QEMUs, up to where their monitors answer."""
        self.primary = self.new_vm(self.phost, 'primary', self.doc.primary,
                                   self.phost.ip)
        self.primary.start()
        self.start_secondary()
        self.primary.connect(oob=True)
        if self.options.boot_first:
            wait_guest(self.primary)

    def start_secondary(self):
        self.secondary = self.new_vm(self.shost, 'secondary',
                                     self.doc.secondary, self.phost.ip)
        self.secondary.launch(oob=True)
        self.run(self.secondary, self.doc.secondary_setup)

    def protect(self):
        """The primary's part, up to the migration's start.

        A guest that runs is protected like one that lost its secondary.
        """
        if self.started[self.primary][1] == 'secondary':
            commands = self.doc.secondary_resume
        elif self.options.boot_first or self.primary in self.mark:
            commands = self.doc.primary_resume
        else:
            commands = self.doc.primary_setup
        self.run(self.primary, commands)

    def bring_up(self):
        """Start, protect, and wait until the guest serves protected."""
        self.start()
        self.protect()
        self.wait_protected()
        wait_guest(self.primary)

    def status(self, vm):
        return vm.qmp.cmd('query-colo-status')

    def stats(self, vm=None):
        return self.status(vm or self.primary).get('stats', {})

    def committed(self):
        """How many checkpoints the secondary has applied in this run."""
        stats = self.stats()
        if 'epoch' in stats:
            return stats['epoch']
        since = self.mark[self.secondary]
        return self.secondary.qmp.count('RESUME', since)

    def wait_protected(self, seconds=60):
        def protected():
            self.primary.check_alive()
            state = self.primary.qmp.cmd('query-migrate')
            expect(state.get('status') != 'failed', 'protection', state)
            for vm, mode in ((self.primary, 'primary'),
                             (self.secondary, 'secondary')):
                vm.check_alive()
                if self.status(vm)['mode'] != mode:
                    return False
            return self.committed() >= 1
        wait_for(protected, seconds, lambda: 'protection and a first '
                 f'checkpoint; seen {self.describe()}', 0.05)

    def wait_checkpoints(self, number, seconds=60):
        """@number more checkpoints are committed."""
        target = self.committed() + number
        wait_for(lambda: self.committed() >= target, seconds,
                 lambda: f'{number} more checkpoints; seen {self.describe()}',
                 0.05)

    def checkpoint(self):
        """Whatever the PVM has done by now is committed afterwards.

        A checkpoint may be under way already: the one after it counts.
        """
        for _ in range(2):
            target = self.committed() + 1
            self.primary.qmp.cmd('x-colo-checkpoint')
            wait_for(lambda: self.committed() >= target, 60,
                     lambda: f'a checkpoint on demand; seen '
                     f'{self.describe()}')

    def reasons(self):
        """Committed checkpoints by reason."""
        return {c['reason']: c['count']
                for c in self.stats().get('checkpoints', [])}

    def describe(self):
        lines = []
        for vm in self.primary, self.secondary:
            try:
                lines.append(f'{vm.name}: {self.status(vm)} '
                             f'{vm.qmp.cmd("query-migrate")}')
            except Exception as error:
                lines.append(f'{vm.name}: {error}')
        return '\n'.join(lines)

    def report_guests(self):
        """Lines that tell where guests stand that cannot be reached."""
        for vm in self.env.vms:
            if not vm.running():
                continue
            yield f'--- {vm.name} guest:'
            try:
                yield str(vm.qmp.cmd('query-block-jobs', seconds=5))
                for command in 'cat /proc/net/tcp', 'threads':
                    yield from re.split('[|;]',
                                        vm.console.command(command, 5))
            except (TestError, OSError) as error:
                yield str(error)

    def kill_primary(self):
        self.primary.kill()

    def kill_secondary(self):
        self.secondary.kill()

    def swap(self):
        """The secondary is the new primary."""
        self.phost, self.shost = self.shost, self.phost
        self.primary, self.secondary = self.secondary, None

    def secondary_failover(self):
        """The primary is dead: the secondary takes over."""
        vm = self.secondary
        mark = self.mark[vm]
        self.run(vm, self.doc.secondary_failover)
        self.check_exit(vm, 'secondary', mark)
        self.swap()

    def primary_failover(self):
        """The secondary is dead: the primary goes on alone."""
        vm = self.primary
        mark = self.mark[vm]
        self.run_failover(vm)
        self.check_exit(vm, 'primary', mark)
        self.secondary = None

    def lose(self, side):
        """Kill the primary or the secondary; the other one goes on."""
        if side == 'primary':
            self.kill_primary()
            self.secondary_failover()
        else:
            self.kill_secondary()
            self.primary_failover()

    def run_failover(self, vm):
        """The documented commands; a peer's loss may have ended COLO."""
        for command in self.doc.primary_failover:
            if not self.applies(command):
                continue
            try:
                self.execute(vm, self.adapt(command))
            except QMPError:
                if command['execute'] != 'x-colo-lost-heartbeat' or \
                        self.status(vm)['mode'] != 'none':
                    raise

    def check_exit(self, vm, mode, mark):
        event = vm.qmp.wait_event('COLO_EXIT', 30, mark)
        expect(event['data']['mode'] == mode, f'COLO_EXIT of mode {mode}',
               event['data'])
        # which may have come when the peer was lost, before the failover
        wait_for(lambda: self.status(vm)['mode'] == 'none', 30,
                 lambda: f'COLO of {vm.name} to end; seen {self.status(vm)}')
        wait_for(lambda: vm.qmp.cmd('query-status')['status'] ==
                 self.survives_as, 30, lambda: f'{vm.name} '
                 f'{self.survives_as}; seen '
                 f'{vm.qmp.cmd("query-status")}')
        self.env.note(f'{vm.name}: COLO_EXIT {event["data"]}')

    def attach(self):
        """A new secondary on the free host."""
        self.wait_jobs()
        self.start_secondary()

    def resume(self):
        """A new secondary on the free host, resync, protection."""
        self.attach()
        self.protect()
        self.wait_protected()

    def clean_up(self):
        """Nothing is left but the images."""

    def wait_jobs(self, seconds=60):
        """The merge at failover has ended."""
        if self.options.disk:
            wait_for(lambda: not self.primary.qmp.cmd('query-block-jobs'),
                     seconds, 'the end of the merge')

    def records(self):
        """The records on the primary's disk, after the end of its QEMU.

        A secondary writes to its overlays until they are merged.
        """
        host, role = self.started[self.primary]
        merged = [e for e in self.primary.qmp.find('BLOCK_JOB_COMPLETED',
                                                   type='commit')
                  if 'error' not in e['data']]
        names = ['primary'] if role == 'primary' or merged else [
            'secondary-active', 'secondary-hidden', 'primary']
        return read_records(self.env.folder, *(host.image(n) for n in names))
