#!/usr/bin/python3
# One host's libvirtd, with directories and a mount namespace of its own
#
# usage: libvirt_host.py FOLDER
#
# What libvirtd finds in /run, /var/lib, /var/cache, /var/log and /etc/libvirt
# is FOLDER's, so that two of them run side by side, and nothing of the
# machine's is seen or touched. Its QEMUs are reaped here: libvirtd, which they
# leave when they become daemons, waits for those it ends to be gone. When it
# ends they are ended, too; but SIGHUP has libvirtd start anew.
#
# SPDX-License-Identifier: GPL-2.0-or-later

import ctypes
import os
import signal
import subprocess
import sys

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
CLONE_NEWNS = 0x20000
PRIVATE = ('run', 'var/lib', 'var/cache', 'var/log', 'etc/libvirt')
USERS = {'passwd': 'libvirt-qemu:x:64055:64055::/nonexistent:/bin/false\n',
         'group': 'libvirt-qemu:x:64055:\n'}
LIBVIRTD = '/usr/sbin/libvirtd'


def libc(name, *args):
    function = getattr(ctypes.CDLL(None, use_errno=True), name)
    if function(*args):
        raise OSError(ctypes.get_errno(), f'{name}{args}')


def mount(*args):
    subprocess.run(['mount', *args], check=True)


def enter(folder):
    """See @folder's files in place of the machine's."""
    libc('unshare', CLONE_NEWNS)
    mount('--make-rprivate', '/')
    for name in PRIVATE:
        os.makedirs(os.path.join(folder, name), exist_ok=True)
        mount('--bind', os.path.join(folder, name), '/' + name)
    for name, line in USERS.items():
        # the user that Debian's system package makes, and libvirtd looks for
        own = os.path.join(folder, 'etc', name)
        with open('/etc/' + name, encoding='utf-8') as f:
            text = f.read()
        with open(own, 'w', encoding='utf-8') as f:
            f.write(text + ('' if 'libvirt-qemu:' in text else line))
        mount('--bind', own, '/etc/' + name)


def children():
    path = f'/proc/self/task/{os.getpid()}/children'
    with open(path, encoding='ascii') as f:
        return [int(pid) for pid in f.read().split()]


def reap_until(last):
    """Reap what ends, until @last has; None: until nothing is left."""
    while True:
        try:
            pid, _ = os.wait()
        except ChildProcessError:
            return
        if pid == last:
            return


def main():
    folder = sys.argv[1]
    libc('prctl', PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    libc('prctl', PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    enter(folder)
    again = True

    def end(signum, _frame):
        nonlocal again
        again = signum == signal.SIGHUP
        daemon.terminate()

    while again:
        again = False
        daemon = subprocess.Popen([LIBVIRTD, '-f', '/etc/libvirt/libvirtd.conf',
                                   '-p', '/run/libvirtd.pid'])
        signal.signal(signal.SIGTERM, end)
        signal.signal(signal.SIGHUP, end)
        reap_until(daemon.pid)
    while children():
        for pid in children():
            os.kill(pid, signal.SIGKILL)
        reap_until(None)


if __name__ == '__main__':
    main()
