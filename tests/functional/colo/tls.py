# TLS on the migration's channels: keys, and a relay that sees whether all
# that passes is encrypted
#
# SPDX-License-Identifier: GPL-2.0-or-later

import os
import secrets
import threading

from .relay import Relay
from .util import expect

HEADER = 5
LONGEST = (1 << 14) + 256
TYPES = (20, 21, 22, 23)        # change cipher spec, alert, handshake, data


class Credentials:
    """A pre-shared key, in the form that QEMU's tls-creds-psk reads"""

    def __init__(self, folder, name='tls'):
        self.name = name
        self.folder = os.path.join(folder, name)
        os.mkdir(self.folder)
        with open(os.path.join(self.folder, 'keys.psk'), 'w',
                  encoding='ascii') as f:
            f.write(f'qemu:{secrets.token_hex(32)}\n')
        self.given = set()

    def give(self, vm, endpoint):
        """Credentials of @vm for this end of a connection, by their id."""
        name = f'{self.name}-{endpoint}'
        if (vm, name) not in self.given:
            vm.qmp.cmd('object-add', {
                'qom-type': 'tls-creds-psk', 'id': name,
                'endpoint': endpoint, 'dir': self.folder})
            self.given.add((vm, name))
        return name


class TLSRelay(Relay):
    """A relay that counts TLS records, and notes what is none"""

    def __init__(self, listen, target):
        self.records = 0
        self.wrong = None
        self.count_lock = threading.Lock()
        super().__init__(listen, target)

    def watcher(self):
        head = b''
        left = 0

        def watch(data):
            nonlocal head, left
            while data:
                if left:
                    left, data = left - min(left, len(data)), data[left:]
                    continue
                need = HEADER - len(head)
                head, data = head + data[:need], data[need:]
                if len(head) == HEADER:
                    left = int.from_bytes(head[3:], 'big')
                    self.note(head, left)
                    head = b''
        return watch

    def note(self, head, length):
        with self.count_lock:
            self.records += 1
            if head[0] not in TYPES or head[1] != 3 or length > LONGEST:
                self.wrong = self.wrong or head

    def check(self):
        """What passed was TLS, all of it."""
        expect(not self.wrong, 'TLS records only', f'{self.wrong}')
        expect(self.records > 100, 'more than 100 TLS records', self.records)
