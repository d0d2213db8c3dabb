# Networks of our own: namespaces, a bridge, taps, and a client behind it
#
# A test runs itself again in namespaces of its own (user, unless root; mount,
# pid, network). Whatever it starts ends with it, however it ends, and nothing
# of the machine's network is touched.
#
# SPDX-License-Identifier: GPL-2.0-or-later

import errno
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time

from .guest import Guest
from .util import Skip, TestError

NO_NAMESPACES = '''\
this user can't have namespaces of its own:
  {}
  what to do: run as root; or let every user have them, as root:
    sysctl -w user.max_user_namespaces=10000
    sysctl -w kernel.unprivileged_userns_clone=1    # where it exists
  a container must be started with --privileged'''
NO_TUN = ('/dev/net/tun is not there: as root, modprobe tun; a container '
          'must be started with --privileged')
TUN_CLOSED = ('/dev/net/tun is closed to this user: as root, chmod 666 '
              '/dev/net/tun, as udev does')

MARK = 'COLO_TEST_NAMESPACE'


def enter(guests=('cloud',)):
    """Return in the namespaces; runs the program again if need be.

    @guests are built before: in there nothing can be fetched.
    """
    if os.environ.get(MARK):
        ip('link', 'set', 'lo', 'up')
        return
    for flavour in guests:
        Guest(flavour)
    env = dict(os.environ, **{MARK: '1'})
    args = ['unshare', '--net', '--mount', '--pid', '--fork', '--kill-child',
            '--mount-proc']
    if os.getuid():
        args += ['--user', '--map-root-user']
    probe = subprocess.run([*args, 'true'], stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT, text=True, check=False)
    if probe.returncode:
        raise TestError(NO_NAMESPACES.format(probe.stdout.strip()))
    sys.stdout.flush()
    os.execvpe('unshare', [*args, sys.executable, *sys.argv], env)


def ip(*args):
    done = subprocess.run(['ip', *args], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, check=False,
                          env=dict(os.environ, PATH=os.environ['PATH'] +
                                   ':/sbin:/usr/sbin'))
    if done.returncode:
        raise TestError(f'ip {" ".join(args)}: {done.stdout.strip()}')
    return done.stdout


def need_tun():
    if not os.path.exists('/dev/net/tun'):
        raise Skip(NO_TUN)
    try:
        # access() doesn't know that this root is none outside
        os.close(os.open('/dev/net/tun', os.O_RDWR))
    except OSError as error:
        raise Skip(TUN_CLOSED if error.errno == errno.EACCES else
                   f'/dev/net/tun: {error.strerror}') from error


class Bridge:
    """A bridge with a tap for each host and a link to the client"""

    def __init__(self, name='br0'):
        self.name = name
        self.taps = []
        ip('link', 'add', 'name', name, 'type', 'bridge', 'stp_state', '0',
           'forward_delay', '0', 'mcast_snooping', '0')
        self.no_ipv6(name)
        ip('link', 'set', name, 'up')

    @staticmethod
    def no_ipv6(dev):
        path = f'/proc/sys/net/ipv6/conf/{dev}/disable_ipv6'
        try:
            with open(path, 'w', encoding='ascii') as f:
                f.write('1')
        except OSError:
            pass

    def add_tap(self, name):
        need_tun()
        ip('tuntap', 'add', 'dev', name, 'mode', 'tap', 'vnet_hdr')
        self.no_ipv6(name)
        ip('link', 'set', name, 'master', self.name, 'up')
        self.taps.append(name)

    def add_client(self, pid):
        """Give the namespace of @pid one end of a link, called eth0."""
        ip('link', 'add', 'name', 'client0', 'type', 'veth', 'peer', 'name',
           'client1')
        self.no_ipv6('client0')
        ip('link', 'set', 'client0', 'master', self.name, 'up')
        ip('link', 'set', 'client1', 'netns', str(pid))

    def unplug(self, tap):
        """Cut a host off, as a switch that fences it would."""
        ip('link', 'set', tap, 'nomaster')

    def plug(self, tap):
        ip('link', 'set', tap, 'master', self.name)

    def sent_by_guest(self, tap):
        """Packets that came out of the guest behind @tap."""
        stats = json.loads(ip('-s', '-j', 'link', 'show', tap))[0]
        return stats['stats64']['rx']['packets']

    def close(self):
        for dev in [*self.taps, 'client0', self.name]:
            try:
                ip('link', 'del', dev)
            except TestError:
                pass


class Capture:
    """Packets of some devices, each into a pcap file of its own

    For whoever looks into a failure: COLO_TEST_CAPTURE=1 with --keep.
    """

    HEAD = struct.pack('<IHHiIII', 0xa1b2c3d4, 2, 4, 0, 0, 65535, 1)

    def __init__(self, devices, folder):
        for device in devices:
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW,
                                 socket.htons(3))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 23)
            sock.bind((device, 0))
            out = open(os.path.join(folder, device + '.pcap'), 'wb')
            out.write(self.HEAD)
            threading.Thread(target=self._run, args=(sock, out),
                             daemon=True).start()

    @staticmethod
    def _run(sock, out):
        while True:
            try:
                data = sock.recv(65535)
            except OSError:
                return
            now = time.time()
            part = data[:256]
            out.write(struct.pack('<IIII', int(now), int(now % 1 * 1e6),
                                  len(part), len(data)) + part)
            out.flush()
