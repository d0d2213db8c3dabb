# The test guest and its disk images
#
# SPDX-License-Identifier: GPL-2.0-or-later

import os
import subprocess
import tempfile

from .util import ROOT, TestError, build_dir

DISK_SIZE = '256M'
GUEST_IP = '10.77.0.2'
CLIENT_IP = '10.77.0.1'


def run(*args, **kwargs):
    """Run a tool; its output is in the error if it fails."""
    done = subprocess.run(args, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, check=False, **kwargs)
    if done.returncode:
        raise TestError(f'{" ".join(args)}: status {done.returncode}\n'
                        + done.stdout.decode(errors='replace'))
    return done.stdout.decode(errors='replace')


class Guest:
    """A kernel and initrd; flavour "cloud" or "full" (rtl8139 and e1000)"""

    def __init__(self, flavour='cloud'):
        builder = os.path.join(ROOT, 'tests', 'guest', 'build')
        done = subprocess.run([builder, flavour], stdout=subprocess.PIPE,
                              text=True, check=False)
        if done.returncode:
            raise TestError('the test guest could not be built')
        self.folder = done.stdout.strip()

    def args(self, ip=None, disk=None, tick=None):
        """QEMU options that boot the guest."""
        words = ['console=ttyS0', 'quiet', 'net.ifnames=0', 'panic=-1',
                 'rdinit=/init']
        if ip:
            words.append(f'colo.ip={ip}/24')
        if disk:
            words.append(f'colo.disk={disk}')
        if tick:
            words.append(f'colo.tick={tick}')
        return ['-kernel', os.path.join(self.folder, 'vmlinuz'),
                '-initrd', os.path.join(self.folder, 'initrd.gz'),
                '-append', ' '.join(words)]


def qemu_img(*args):
    return run(os.path.join(build_dir(), 'qemu-img'), *args)


def make_disk(path):
    """A qcow2 image with an empty ext4 file system."""
    with tempfile.TemporaryDirectory(dir=os.path.dirname(path)) as tmp:
        raw = os.path.join(tmp, 'raw')
        empty = os.path.join(tmp, 'empty')
        os.mkdir(empty)
        run('/sbin/mke2fs', '-q', '-t', 'ext4', '-d', empty, raw, DISK_SIZE)
        qemu_img('convert', '-f', 'raw', '-O', 'qcow2', raw, path)


def chain_name(*layers):
    """A name for qemu-img of qcow2 files, the top one first."""
    node = None
    for path in reversed(layers):
        image = {'driver': 'qcow2', 'file': {'driver': 'file',
                                             'filename': path}}
        if node:
            image['backing'] = node
        node = image
    import json
    return 'json:' + json.dumps(node)


def read_records(folder, *layers):
    """What is in /records on the disk: a dict of client: list of seq.

    The file system is checked first: it must be one that a crash can leave.
    """
    raw = os.path.join(folder, 'final.raw')
    qemu_img('convert', '-O', 'raw', chain_name(*layers), raw)
    check = subprocess.run(['/sbin/e2fsck', '-fy', raw],
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                           text=True, check=False)
    if check.returncode >= 4:
        raise TestError('expected: a file system as a crash leaves it\n'
                        f'seen: e2fsck status {check.returncode}\n'
                        f'{check.stdout}')
    text = subprocess.run(['/sbin/debugfs', '-R', 'cat /records', raw],
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                          check=False).stdout
    os.unlink(raw)
    records = {}
    for line in text.split(b'\n'):
        words = line.split(b' ')
        if len(words) >= 3 and words[0].isdigit() and words[1].isdigit():
            records.setdefault(int(words[0]), []).append(int(words[1]))
    return records
