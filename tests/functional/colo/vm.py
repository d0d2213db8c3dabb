# One QEMU process: its monitor, its guest's console, its logs
#
# SPDX-License-Identifier: GPL-2.0-or-later

import os
import re
import signal
import socket
import subprocess
import threading
import time

from .qmp import QMP, QMPClosed
from .util import (Deadline, SCALE, TestError, Timeout, build_dir, cache_dir,
                   tail, wait_for)

FIRMWARE = ('/usr/share/qemu', '/usr/share/seabios', '/usr/lib/ipxe/qemu')


def firmware_args():
    """Options that let a build find Debian's firmware, if it has no links."""
    links = os.path.join(build_dir(), 'qemu-bundle/usr/local/share')
    for name in 'qemu-firmware', 'qemu':
        if os.path.exists(os.path.join(links, name, 'bios-256k.bin')):
            return []
    folder = os.path.join(cache_dir(), 'firmware')
    os.makedirs(folder, exist_ok=True)
    for source in FIRMWARE:
        for name in os.listdir(source) if os.path.isdir(source) else []:
            try:
                os.symlink(os.path.join(source, name),
                           os.path.join(folder, name))
            except FileExistsError:
                pass
    return ['-L', folder]


class Console:
    """The guest's serial line: what it printed, and commands for guestd"""

    def __init__(self, path, vm):
        self.path = path
        self.vm = vm
        self.text = ''
        self.next_id = 0
        self.changed = threading.Condition()
        self.sock = None

    def connect(self):
        sock = socket.socket(socket.AF_UNIX)
        wait_for(lambda: self._try_connect(sock), 30,
                 lambda: f'{self.vm.name}: console socket {self.path}')
        self.sock = sock
        threading.Thread(target=self._read, daemon=True).start()

    def _try_connect(self, sock):
        self.vm.check_alive()
        try:
            sock.connect(self.path)
            return True
        except OSError:
            return False

    def receive(self):
        return self.sock.recv(65536)

    def send_bytes(self, data):
        self.sock.sendall(data)

    def _read(self):
        while True:
            try:
                data = self.receive()
            except (OSError, TypeError):
                data = b''
            with self.changed:
                self.text += data.decode(errors='replace').replace('\r', '')
                self.changed.notify_all()
            if not data:
                return

    def close(self):
        if self.sock:
            self.sock.close()

    def wait(self, pattern, seconds=60, since=0):
        """Wait for a match of @pattern after offset @since; return it."""
        deadline = Deadline(seconds)
        regex = re.compile(pattern, re.M)
        with self.changed:
            while True:
                found = regex.search(self.text, since)
                if found:
                    return found
                self.vm.check_alive()
                if deadline.passed():
                    raise Timeout(f'{self.vm.name}: expected on the console '
                                  f'within {seconds * SCALE:g} s: {pattern}')
                self.changed.wait(min(0.2, deadline.left()))

    def begin(self, line):
        """Send a command to guestd; what is returned is for answer()."""
        with self.changed:
            self.next_id += 1
            tag = f'{self.vm.name}{self.next_id}'
            since = len(self.text)
        self.send(f'{tag} {line}')
        return tag, since

    def answer(self, begun, seconds=20):
        tag, since = begun
        # the echo of the command may still be under way on the same line
        return self.wait(rf'@{tag} (.*)\n', seconds, since).group(1)

    def command(self, line, seconds=20):
        """Run a command of guestd and return its answer."""
        return self.answer(self.begin(line), seconds)

    def send(self, line):
        try:
            self.send_bytes(line.encode() + b'\n')
        except OSError as error:
            raise TestError(f'{self.vm.name}: console: {error}') from error


class VM:
    """A QEMU with its monitor on stdio"""

    def __init__(self, name, folder, args, env=None):
        self.name = name
        self.folder = folder
        self.env = env
        os.makedirs(folder, exist_ok=True)
        self.stderr_path = os.path.join(folder, name + '.stderr')
        self.qmp_path = os.path.join(folder, name + '.qmp')
        self.console_path = os.path.join(folder, name + '.console')
        self.socket_path = os.path.join(folder, name + '.sock')
        self.args = [os.path.join(build_dir(), 'qemu-system-x86_64'),
                     *firmware_args(), *args, '-display', 'none',
                     '-chardev', f'socket,id=console0,path={self.socket_path},'
                     f'server=on,wait=off,logfile={self.console_path}',
                     '-serial', 'chardev:console0']
        self.proc = None
        self.qmp = None
        self.console = Console(self.socket_path, self)
        self.expect_exit = False

    def start(self):
        with open(self.stderr_path, 'wb') as stderr:
            self.proc = subprocess.Popen(
                self.args, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=stderr, env=self.env)
        log = open(self.qmp_path, 'w', encoding='utf-8')
        self.qmp = QMP(self.proc.stdout, self.proc.stdin, self.name, log)

    def connect(self, oob=False, seconds=30):
        """Wait for the monitor and the console."""
        self.qmp.wait_greeting(seconds)
        enable = {'enable': ['oob']} if oob else None
        self.qmp.cmd('qmp_capabilities', enable)
        self.console.connect()

    def launch(self, oob=False):
        self.start()
        self.connect(oob)
        return self

    def check_alive(self):
        if self.proc and self.proc.poll() is not None:
            raise TestError(f'{self.name}: QEMU ended with status '
                            f'{self.proc.returncode}')

    def running(self):
        return self.proc is not None and self.proc.poll() is None

    def kill(self, sig=signal.SIGKILL):
        """End the process at once, as a crash would, and reap it."""
        if self.running():
            self.proc.send_signal(sig)
            if sig == signal.SIGKILL:
                self.proc.wait()

    def quit(self, seconds=20):
        """Ask QEMU to end; it must, with status 0."""
        try:
            self.qmp.cmd('quit', seconds=seconds)
        except QMPClosed:
            pass
        return self.wait_exit(seconds)

    def wait_exit(self, seconds=20):
        try:
            return self.proc.wait(seconds * SCALE)
        except subprocess.TimeoutExpired:
            raise Timeout(f'{self.name}: expected: QEMU ends within '
                          f'{seconds * SCALE:g} s') from None

    def close(self):
        if self.proc:
            if self.running():
                self.proc.send_signal(signal.SIGCONT)
                self.proc.terminate()
                try:
                    self.proc.wait(3)
                except subprocess.TimeoutExpired:
                    self.proc.kill()
                    self.proc.wait()
            self.console.close()
            self.qmp.close()

    def report(self):
        """Lines that tell what this QEMU said last."""
        lines = [f'--- {self.name}: ' + (
            'running' if self.running() else 'not started' if not self.proc
            else f'ended with status {self.proc.returncode}')]
        for title, path, count in (('stderr', self.stderr_path, 25),
                                   ('qmp', self.qmp_path, 25),
                                   ('console', self.console_path, 12)):
            lines += [f'--- {self.name} {title}:', *tail(path, count)]
        return [line if len(line) < 700 else f"{line[:300]} ... {line[-300:]}"
                for line in lines]

    def crashed(self):
        """What the process died of, if by a signal other than ours."""
        code = self.proc.returncode if self.proc else None
        if code is not None and code < 0 and -code not in (
                signal.SIGKILL, signal.SIGTERM):
            return signal.Signals(-code).name
        return None


def wait_guest(vm, seconds=60):
    vm.console.wait(r'^guestd ready', seconds)


def now_ms():
    return time.monotonic() * 1000
