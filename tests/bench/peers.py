# What is measured side by side: a plain VM, stock COLO, and this tree
#
# SPDX-License-Identifier: GPL-2.0-or-later

import os
from dataclasses import dataclass

from colo.pair import Options, Pair
from colo.util import expect
from colo.vm import wait_guest


@dataclass(frozen=True)
class Peer:
    """A QEMU and how it is run"""
    name: str
    build: str              # below the outer build's folder
    about: str
    protected: bool = True
    proxy: bool = True      # outgoing packets are compared
    period_ms: int = 2000

    def options(self, mem):
        return Options(nic='virtio-net-pci', disk='virtio', mem=mem,
                       delay=self.period_ms, boot_first=True,
                       proxy=self.proxy)


PEERS = {p.name: p for p in (
    Peer('plain', 'qemu', 'this QEMU, no COLO', protected=False),
    Peer('stock', 'stock/qemu',
         "QEMU's own COLO, with the one fix that keeps it from deadlock"),
    Peer('stock-tuned', 'stock-tuned/qemu',
         'the same, with TCP_NODELAY and its tick count reset'),
    Peer('ours', 'qemu', 'this tree, output compared'),
    # Held output waits for the next checkpoint: they must come often
    Peer('ours-periodic', 'qemu', 'this tree, output held', proxy=False,
         period_ms=100),
)}


class PlainPair(Pair):
    """A VM that nothing protects, on a host like the primary's"""

    def option(self, option, value, host, primary_ip):
        if option in ('-chardev', '-object'):
            return []
        if option == '-drive':
            return [option, 'if=none,id=colo-disk0,driver=qcow2,'
                    f'file.filename={host.image("primary")}']
        return super().option(option, value, host, primary_ip)

    def bring_up(self):
        self.primary = self.new_vm(self.phost, 'primary', self.doc.primary,
                                   self.phost.ip)
        self.primary.launch(oob=True)
        wait_guest(self.primary)


def bring_up(env, top, peer, mem):
    """A guest of @mem MiB that serves, protected if the peer protects.

    The harness takes the QEMU from its environment, for each VM anew.
    """
    os.environ['COLO_QEMU_BUILD'] = os.path.join(top, peer.build)
    kind = Pair if peer.protected else PlainPair
    pair = kind(env, peer.options(mem))
    pair.bring_up()
    pair.clients.wait_reachable()
    return pair


def sides(pair):
    """The QEMUs of a pair by side: a plain VM has no secondary."""
    both = {'primary': pair.primary, 'secondary': pair.secondary}
    return {side: vm for side, vm in both.items() if vm}


def check_protected(pair):
    """What ran on without protection would be measured as a plain VM."""
    for side, vm in sides(pair).items():
        vm.check_alive()
        if pair.secondary:
            found = vm.qmp.find('COLO_EXIT')
            expect(not found, f'{side}: protection lasts', found)
