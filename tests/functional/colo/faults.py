# Disks that fail at a time of the test's choice: blkdebug, put below a format
# node while QEMU runs
#
# SPDX-License-Identifier: GPL-2.0-or-later

import re

EIO = 5
ENOSPC = 28


def name_nodes(drive):
    """
    The value of a -drive with names for its nodes: each image's format node is
    called after its file, the node below NAME-file
    """
    for prefix, name in re.findall(r'([\w.]*)file\.filename=[^,]*/([\w-]+)'
                                   r'\.qcow2', drive):
        drive += f',{prefix}node-name={name},{prefix}file.node-name={name}-file'
    return drive


class DiskError:
    """An image of a VM whose writes fail, from begin() to end()

    backing: the node that image is backed by, if any; reopening must name it.
    """

    def __init__(self, vm, name, backing=None):
        self.vm = vm
        self.name = name
        self.backing = backing

    def _reopen(self, child):
        node = {'driver': 'qcow2', 'node-name': self.name, 'file': child}
        if self.backing:
            node['backing'] = self.backing
        self.vm.qmp.cmd('blockdev-reopen', {'options': [node]})

    def begin(self, *rules):
        self.vm.qmp.cmd('blockdev-add', {
            'driver': 'blkdebug', 'node-name': self.name + '-fault',
            'image': self.name + '-file', 'inject-error': list(rules)})
        self._reopen(self.name + '-fault')

    def end(self):
        self._reopen(self.name + '-file')
        self.vm.qmp.cmd('blockdev-del', {'node-name': self.name + '-fault'})


def write_fails(error=EIO, once=False, event='none'):
    """A blkdebug rule: writes fail; all, or the first after @event."""
    return {'event': event, 'iotype': 'write', 'errno': error, 'once': once}
