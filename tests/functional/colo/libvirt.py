# A pair that libvirt runs: contrib/libvirt's definitions and commands
#
# SPDX-License-Identifier: GPL-2.0-or-later

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import tty
import uuid
import xml.etree.ElementTree as ET

from .guest import DISK_SIZE, make_disk, qemu_img, read_records
from .libvirt_host import LIBVIRTD
from .net import Bridge, need_tun
from .pair import Pair
from .qmp import QMP, QMPClosed, QMPError
from .clients import Clients
from .util import (ROOT, SCALE, Skip, TestError, Timeout, build_dir, expect,
                   tail, wait_for)
from .vm import Console

CONTRIB = os.path.join(ROOT, 'contrib', 'libvirt')
COLO_QMP = os.path.join(CONTRIB, 'colo-qmp')
STEPS = {name: os.path.join(CONTRIB, name + '.qmp')
         for name in ('secondary', 'protect', 'unprotect', 'primary-lost',
                      'secondary-lost')}
NAME = 'guest'
QEMU_NS = 'http://libvirt.org/schemas/domain/qemu/1.0'
EVENT = re.compile(r"event (\w+) at (\d+)\.(\d+) for domain '[^']*': (.*)")

# What a guest on one machine needs: no security driver, no cgroups, no daemon
# for logs, root as the user, as the namespaces have no other.
LIBVIRTD_CONF = '''\
auth_unix_ro = "none"
auth_unix_rw = "none"
host_uuid = "{uuid}"
log_outputs = "3:file:{folder}/libvirtd.log"
'''
QEMU_CONF = '''\
security_driver = "none"
user = "root"
group = "root"
namespaces = []
cgroup_controllers = []
stdio_handler = "file"
remember_owner = 0
'''


def need_libvirt():
    for program in LIBVIRTD, '/usr/bin/virsh':
        if not os.path.exists(program):
            raise Skip(f'{program} is not installed: as root, apt-get install '
                       '--no-install-recommends libvirt-daemon '
                       'libvirt-daemon-driver-qemu libvirt-clients')


class Libvirtd:
    """A host's libvirtd, and virsh to talk to it"""

    def __init__(self, folder):
        self.folder = folder
        self.log = os.path.join(folder, 'libvirtd.log')
        conf = os.path.join(folder, 'etc', 'libvirt')
        os.makedirs(conf)
        for name, text in (('libvirtd.conf', LIBVIRTD_CONF),
                           ('qemu.conf', QEMU_CONF)):
            with open(os.path.join(conf, name), 'w', encoding='utf-8') as f:
                f.write(text.format(folder=folder, uuid=uuid.uuid4()))
        with open(os.path.join(folder, 'host.log'), 'wb') as log:
            self.proc = subprocess.Popen(
                [sys.executable, os.path.join(os.path.dirname(__file__),
                                              'libvirt_host.py'), folder],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.socket = self.path('run/libvirt/libvirt-sock')
        self.uri = 'qemu+unix:///system?socket=' + self.socket
        self.env = dict(os.environ, LIBVIRT_DEFAULT_URI=self.uri)

    def path(self, name):
        """Where the host's /@name is for everybody else."""
        return os.path.join(self.folder, name)

    def wait(self, seconds=60):
        def answers():
            if self.proc.poll() is not None:
                raise TestError('libvirtd ended:\n' + '\n'.join(
                    tail(self.path('host.log')) + tail(self.log)))
            return os.path.exists(self.socket) and \
                not self.run('virsh', 'list').returncode
        wait_for(answers, seconds, 'libvirtd answers', 0.1)

    def run(self, *args, seconds=60):
        """Run a program that talks to this libvirtd."""
        try:
            return subprocess.run(args, env=self.env, text=True, check=False,
                                  stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE,
                                  timeout=seconds * SCALE)
        except subprocess.TimeoutExpired:
            raise Timeout(f'expected within {seconds * SCALE:g} s: '
                          f'{" ".join(args)} ends') from None

    def virsh(self, *args, seconds=60):
        """What "virsh ARGS" prints; it must succeed."""
        done = self.run('virsh', '--quiet', *args, seconds=seconds)
        if done.returncode:
            raise TestError(f'virsh {" ".join(args)}: {done.stderr.strip()}')
        return done.stdout.strip()

    def pid(self):
        try:
            with open(self.path('run/libvirtd.pid'), encoding='ascii') as f:
                return int(f.read())
        except (OSError, ValueError):
            return None

    def restart(self):
        """libvirtd ends and starts again, its QEMUs run on."""
        before = self.pid()
        self.proc.send_signal(signal.SIGHUP)
        wait_for(lambda: self.pid() not in (None, before), 30,
                 'another libvirtd')
        self.wait()

    def close(self):
        if self.proc.poll() is None:
            self.proc.terminate()
            try:
                self.proc.wait(20 * SCALE)
            except subprocess.TimeoutExpired:
                self.proc.kill()
                self.proc.wait()

    def warnings(self, about):
        """Lines of the log that match @about."""
        return [line for line in tail(self.log, 1000)
                if re.search(about, line)]


class VirshQMP(QMP):
    """QEMU's monitor as virsh has it: one process for the events, one for each
    command"""

    def __init__(self, libvirtd, name, log):
        self.libvirtd = libvirtd
        self.watch = self.events_of(libvirtd)
        super().__init__(self.watch.stdout, None, name, log)

    @staticmethod
    def events_of(libvirtd):
        return subprocess.Popen(
            ['stdbuf', '-oL', 'virsh', '--quiet', 'qemu-monitor-event',
             '--loop'], env=libvirtd.env, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)

    def watch_again(self):
        """libvirtd is another one: see what comes from it."""
        self.close()
        self.thread.join()
        self.closed = False
        self.watch = self.events_of(self.libvirtd)
        self.reader = self.watch.stdout
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self):
        for line in self.reader:
            text = line.decode(errors='replace').rstrip()
            self.note('<- ' + text)
            found = EVENT.match(text)
            if found:
                name, sec, usec, data = found.groups()
                self._take({'event': name, 'timestamp':
                            {'seconds': int(sec), 'microseconds': int(usec)},
                            'data': json.loads(data) if data[0] == '{'
                            else {}})
        with self.changed:
            self.closed = True
            self.changed.notify_all()

    def close(self):
        self.watch.kill()
        self.watch.wait()

    def execute(self, message, seconds=30):
        text = json.dumps(message)
        self.note('-> ' + text)
        done = self.libvirtd.run('virsh', '--quiet', 'qemu-monitor-command',
                                 NAME, text, seconds=seconds)
        self.note('<- ' + done.stdout.strip() + done.stderr.strip())
        if done.returncode:
            raise QMPClosed(f'{self.name}: {done.stderr.strip()}')
        reply = json.loads(done.stdout)
        if 'error' in reply:
            raise QMPError(message['execute'], reply['error'])
        return reply['return']

    def cmd(self, command, arguments=None, seconds=30, oob=False):
        message = {'exec-oob' if oob else 'execute': command}
        if arguments:
            message['arguments'] = arguments
        return self.execute(message, seconds)


class Terminal(Console):
    """The guest's serial line on a pseudo terminal"""

    def connect(self):
        self.sock = os.open(self.path, os.O_RDWR | os.O_NOCTTY)
        tty.setraw(self.sock)
        threading.Thread(target=self._read, daemon=True).start()

    def receive(self):
        return os.read(self.sock, 65536)

    def send_bytes(self, data):
        os.write(self.sock, data)

    def close(self):
        if self.sock is not None:
            os.close(self.sock)
            self.sock = None


class Domain:
    """A domain of libvirt's from its start to its end; what VM is for a QEMU"""

    def __init__(self, name, host, folder):
        self.name = name
        self.host = host
        self.libvirtd = host.libvirtd
        self.stderr_path = host.libvirtd.path(
            f'var/log/libvirt/qemu/{NAME}.log')
        self.qmp_path = os.path.join(folder, name + '.qmp')
        self.console_path = os.path.join(folder, name + '.console')
        self.qmp = self.console = self.pid = None
        self.killed = False

    def start(self, *options):
        log = open(self.qmp_path, 'w', encoding='utf-8')
        self.qmp = VirshQMP(self.libvirtd, self.name, log)
        self.libvirtd.virsh('start', NAME, *options)
        with open(self.libvirtd.path(f'run/libvirt/qemu/{NAME}.pid'),
                  encoding='ascii') as f:
            self.pid = int(f.read())
        self.console = Terminal(self.libvirtd.virsh('ttyconsole', NAME), self)
        self.console.connect()

    def watch_again(self):
        self.qmp.watch_again()

    def state(self):
        return self.libvirtd.virsh('domstate', '--reason', NAME)

    def running(self):
        return self.pid is not None and os.path.exists(f'/proc/{self.pid}')

    def check_alive(self):
        if self.pid and not self.running():
            raise TestError(f'{self.name}: QEMU ended')

    def kill(self, sig=signal.SIGKILL):
        """End QEMU at once; libvirt is left to notice."""
        if not self.running():
            return
        os.kill(self.pid, sig)
        if sig == signal.SIGKILL:
            self.killed = True
            wait_for(lambda: not self.running(), 20, f'the end of {self.name}')
            wait_for(lambda: self.state().startswith('shut off'), 20,
                     lambda: f'libvirt notices; seen {self.state()}')

    def destroy(self):
        self.killed = True
        self.libvirtd.virsh('destroy', NAME)

    def close(self):
        if self.qmp:
            self.qmp.close()
        if self.console:
            self.console.close()

    def crashed(self):
        """What libvirt says of an end that was not ours."""
        if self.pid and not self.running() and not self.killed:
            state = self.state()
            return state if 'crashed' in state else None
        return None

    def report(self):
        lines = [f'--- {self.name}: ' + ('running' if self.running() else
                                         'not running')]
        for title, path, count in (('QEMU', self.stderr_path, 25),
                                   ('qmp', self.qmp_path, 25),
                                   ('libvirtd', self.libvirtd.log, 25)):
            lines += [f'--- {self.name} {title}:', *tail(path, count)]
        lines.append(f'--- {self.name} console:')
        lines += self.console.text.splitlines()[-12:] if self.console else []
        return [line if len(line) < 700 else f'{line[:300]} ... {line[-300:]}'
                for line in lines]


class LibvirtPair(Pair):
    """Two hosts with a libvirtd each; the guest by contrib/libvirt"""

    runs = 'two libvirtds start'

    def __init__(self, env, options):
        need_libvirt()
        super().__init__(env, options)

    def make_network(self):
        need_tun()
        with open('/proc/sys/net/ipv6/conf/default/disable_ipv6', 'w',
                  encoding='ascii') as f:
            f.write('1')
        self.bridge = Bridge()
        self.env.callback(self.bridge.close)
        self.clients = Clients(self.bridge)
        self.env.callback(self.clients.close)
        self.env.reporters.append(self.clients.report)

    def make_images(self):
        for host in self.hosts:
            host.libvirtd = Libvirtd(host.folder)
            self.env.callback(host.libvirtd.close)
        for host in self.hosts:
            host.libvirtd.wait()
            for folder in 'images', 'colo':
                os.makedirs(self.image(host, folder, ''), exist_ok=True)
            for name in 'active', 'hidden':
                qemu_img('create', '-q', '-f', 'qcow2',
                         self.image(host, 'colo', f'guest-{name}.qcow2'),
                         DISK_SIZE)
        first, second = (self.image(host, 'images', 'guest.qcow2')
                         for host in self.hosts)
        make_disk(first)
        # the first protection makes it what the first one is
        qemu_img('create', '-q', '-f', 'qcow2', second, DISK_SIZE)

    @staticmethod
    def image(host, folder, name):
        return host.libvirtd.path(f'var/lib/libvirt/{folder}/{name}')

    def definition(self, host, role):
        """contrib's XML with what differs here, as a file."""
        ET.register_namespace('qemu', QEMU_NS)
        tree = ET.parse(os.path.join(CONTRIB, f'{role}-tcg.xml'))
        root = tree.getroot()
        root.find('memory').text = str(self.options.mem)
        devices = root.find('devices')
        devices.find('emulator').text = os.path.join(build_dir(),
                                                     'qemu-system-x86_64')
        ET.SubElement(devices.find('interface'), 'target', dev=host.tap)
        system = root.find('os')
        system.remove(system.find('boot'))
        args = self.guest_args()
        for option, tag in (('-kernel', 'kernel'), ('-initrd', 'initrd'),
                            ('-append', 'cmdline')):
            ET.SubElement(system, tag).text = args[args.index(option) + 1]
        path = os.path.join(host.folder, role + '.xml')
        tree.write(path)
        return path

    def steps(self, vm, name, peer=None):
        """Commands of contrib, given at a domain's monitor."""
        vm.qmp.note(f'== {name}')
        done = vm.libvirtd.run(COLO_QMP, NAME, STEPS[name],
                               *([peer.ip] if peer else []), seconds=120)
        vm.qmp.note(done.stdout + done.stderr)
        if done.returncode:
            raise TestError(f'{vm.name}: {name}.qmp: {done.stderr.strip()} '
                            f'after\n{done.stdout}')

    def new_domain(self, host, role):
        self.count += 1
        vm = Domain(f'{host.letter}{self.count}-{role}', host, self.env.folder)
        self.started[vm] = (host, role)
        host.libvirtd.virsh('define', '--validate',
                            self.definition(host, role))
        return self.env.add_vm(vm)

    def start(self):
        self.start_primary()
        self.start_secondary()

    def start_primary(self):
        self.primary = self.new_domain(self.phost, 'primary')
        self.primary.start()
        self.primary.console.wait(r'^guestd ready')

    def start_secondary(self):
        self.secondary = self.new_domain(self.shost, 'secondary')
        self.secondary.start('--paused')
        self.steps(self.secondary, 'secondary', self.phost)

    def protect(self):
        self.mark = {v: v.qmp.mark() for v in (self.primary, self.secondary)}
        self.before_migrate()
        self.steps(self.primary, 'protect', self.shost)

    def secondary_failover(self):
        vm = self.secondary
        self.steps(vm, 'primary-lost')
        self.check_exit(vm, 'secondary', self.mark[vm])
        self.swap()

    def primary_failover(self):
        vm = self.primary
        self.steps(vm, 'secondary-lost')
        self.check_exit(vm, 'primary', self.mark[vm])
        self.secondary = None

    def bring_up(self):
        self.start()
        self.protect()
        self.wait_protected()

    def records(self):
        host = self.started[self.primary][0]
        expect(self.merged(), 'the overlays are merged', 'they are not')
        return read_records(self.env.folder,
                            self.image(host, 'images', 'guest.qcow2'))

    def merged(self):
        return self.started[self.primary][1] == 'primary' or any(
            'error' not in e['data'] for e in self.primary.qmp.find(
                'BLOCK_JOB_COMPLETED', type='commit'))

    def clean_up(self):
        """Nothing is left of the domains."""
        for host in self.hosts:
            host.libvirtd.virsh('undefine', NAME)
            left = host.libvirtd.virsh('list', '--all')
            expect(not left, f'no domain on host {host.letter}', left)
