#!/usr/bin/python3
# The harness itself: guest, clients and disk checks with one plain QEMU
#
# SPDX-License-Identifier: GPL-2.0-or-later

import os

from colo import tap
from colo.clients import Clients, check_records
from colo.guest import GUEST_IP, Guest, make_disk, read_records
from colo.net import Bridge
from colo.vm import VM, wait_guest

suite = tap.Suite(guests=('cloud', 'full'))


def plain(env, flavour, smp, nic, disk):
    image = os.path.join(env.folder, 'disk.qcow2')
    make_disk(image)
    bridge = Bridge()
    env.callback(bridge.close)
    bridge.add_tap('tap0')
    clients = Clients(bridge)
    env.callback(clients.close)
    name = 'vda' if disk == 'virtio' else 'sda'
    vm = env.add_vm(VM('plain', env.folder, [
        '-accel', 'tcg', '-m', '256', '-smp', str(smp), '-qmp', 'stdio',
        '-netdev', 'tap,id=hn0,vhost=off,ifname=tap0,script=no,downscript=no',
        '-device', f'{nic},netdev=hn0',
        '-drive', f'if={disk},file={image},format=qcow2',
        *Guest(flavour).args(GUEST_IP, name)]))
    vm.launch()
    wait_guest(vm)
    assert vm.console.command('disk') == 'ext4'
    clients.start_usual(rate=0)
    clients.start('slow', 'upload', length=4 << 20, rate=1 << 20)
    clients.wait_progress()
    clients.wait_middle(['slow'])
    vm.console.command('dirty 16 64 random')
    clients.wait_progress()
    reports = clients.stop()
    for client, report in reports.items():
        env.note(f'{client}: {report["requests"]} requests, longest gap '
                 f'{report["gap_ms"]} ms')
    clients.check(reports)
    clients.check_udp()
    assert vm.console.command('stat').split()[1] == '0'
    vm.kill()
    check_records(reports, read_records(env.folder, image))


def stop_cont(env):
    """A guest that writes to its disk is stopped and goes on, many times."""
    image = os.path.join(env.folder, 'disk.qcow2')
    make_disk(image)
    vm = env.add_vm(VM('plain', env.folder, [
        '-accel', 'tcg', '-m', '128', '-qmp', 'stdio', '-nic', 'none',
        '-object', 'iothread,id=ioblk',
        '-drive', f'if=none,id=disk0,file={image},format=qcow2',
        '-device', 'virtio-blk-pci,drive=disk0,iothread=ioblk',
        *Guest('cloud').args(None, 'vda')]))
    vm.launch()
    wait_guest(vm)
    for seq in range(1, 41):
        tag = vm.console.begin(f'record 1 {seq}')
        vm.qmp.cmd('stop')
        vm.qmp.cmd('cont')
        assert vm.console.answer(tag) == 'ok'


suite.add('stop-cont', 60, stop_cont)
suite.add('virtio', 60, plain, 'cloud', 1, 'virtio-net-pci', 'virtio')
suite.add('rtl8139', 90, plain, 'full', 1, 'rtl8139', 'ide')
suite.add('e1000', 90, plain, 'full', 1, 'e1000', 'ide')

if __name__ == '__main__':
    tap.main(suite)
