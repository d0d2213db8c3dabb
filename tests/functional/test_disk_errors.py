#!/usr/bin/python3
# Disks that fail: which error reaches which guest, and which ends protection
#
# The failures are those of QEMU's docs/block-replication.txt.
#
# SPDX-License-Identifier: GPL-2.0-or-later

from colo import tap
from colo.disk import check, lose, protected, said, write
from colo.faults import EIO, ENOSPC, DiskError, write_fails
from colo.qmp import QMPError
from colo.util import expect, wait_for

suite = tap.Suite()
NEVER = 600000                  # ms: checkpoints on demand only
ACTIVE = ('secondary-active', 'secondary-hidden')
HIDDEN = ('secondary-hidden', 'primary')
DISK = ('primary', None)


def failing(env, **changes):
    """A protected pair whose images can be made to fail."""
    pair = protected(env, **{'disk': 'virtio', 'names': True, **changes})
    write(pair, 5)
    expect(pair.primary.console.command('sync') == 'ok', 'a sync', 'none')
    return pair


def wait_error(vm, mark, action):
    vm.qmp.wait_event('BLOCK_IO_ERROR', 30, mark,
                      lambda data: data['action'] == action)


def still_protected(pair):
    for vm, mode in ((pair.primary, 'primary'), (pair.secondary, 'secondary')):
        status = pair.status(vm)
        expect(status['mode'] == mode, f'mode {mode}', status)
    pair.checkpoint()


def primary_report(env):
    """The primary's own disk fails: its guest gets the error."""
    pair = failing(env, werror='report')
    vm = pair.primary
    mark = vm.qmp.mark()
    error = DiskError(vm, 'primary')
    error.begin(write_fails(once=True))
    answer = vm.console.command('record 2 1')
    expect(answer == f'error {EIO}', 'the guest sees the I/O error', answer)
    wait_error(vm, mark, 'report')
    error.end()
    still_protected(pair)
    lose(pair, 'primary')
    check(pair)


def stopped_by_error(pair):
    """The PVM stands still for a failing record 1 of client 1."""
    vm = pair.primary
    mark = vm.qmp.mark()
    error = DiskError(vm, 'primary')
    error.begin(write_fails())
    vm.console.send(f'stopped record 1 {pair.next_record}')
    pair.next_record += 1
    wait_error(vm, mark, 'stop')
    wait_for(lambda: vm.qmp.cmd('query-status')['status'] == 'io-error', 30,
             'the state io-error')
    # a request that waits for its repetition is part of these
    still_protected(pair)
    still_protected(pair)
    return error


def continued(pair):
    vm = pair.primary
    vm.qmp.cmd('cont')
    answer = vm.console.wait(r'@stopped (.*)\n', 30).group(1)
    expect(answer == 'ok', 'the record is written after all', answer)


def primary_stop(env):
    """... or stops for management, and goes on where it was."""
    pair = failing(env, werror='stop')
    stopped_by_error(pair).end()
    continued(pair)
    write(pair, 5)
    still_protected(pair)
    lose(pair, 'primary')
    check(pair)


def primary_stop_failover(env):
    """The primary dies while it is stopped: so is the survivor, for cont."""
    pair = failing(env, werror='stop')
    stopped_by_error(pair)
    vm = pair.secondary
    pair.kill_primary()
    pair.run(vm, pair.doc.secondary_failover)
    vm.qmp.wait_event('COLO_EXIT', 30, pair.mark[vm])
    wait_for(lambda: pair.status(vm)['mode'] == 'none', 30, 'the takeover')
    status = vm.qmp.cmd('query-status')
    expect(not status['running'], 'the survivor stands still too', status)
    pair.swap()
    continued(pair)
    write(pair, 5)
    check(pair)


def svm_alive(pair):
    """The SVM's disk works, as if it had never failed."""
    vm = pair.secondary
    wait_for(lambda: vm.qmp.cmd('query-status')['running'], 30,
             'the SVM runs again')
    answer = vm.console.command('record 9 1')
    expect(answer == 'ok', 'the SVM writes to its disk', answer)


def active(env, error, action, times=1, **changes):
    """The active disk fails: the SVM's affair, which a checkpoint mends."""
    pair = failing(env, delay=NEVER, **changes)
    vm = pair.secondary
    for number in range(times):
        pair.checkpoint()
        mark = vm.qmp.mark()
        disk = DiskError(vm, *ACTIVE)
        disk.begin(write_fails(error, once=True))
        if action == 'report':
            answer = vm.console.command(f'record 8 {number}')
            expect(answer == f'error {error}', 'the SVM sees the error',
                   answer)
        else:
            vm.console.send(f'failing record 8 {number}')
        wait_error(vm, mark, action)
        if action == 'stop':
            # nobody asks for this checkpoint but the secondary
            wait_for(lambda: pair.reasons().get('secondary', 0) > number, 30,
                     lambda: f'a checkpoint for the SVM; {pair.describe()}')
            # ... which nothing that waited to be repeated has outlived
            svm_alive(pair)
        disk.end()
        still_protected(pair)
        svm_alive(pair)
        write(pair, 5)
    lose(pair, 'primary')
    records = check(pair)
    expect(not {8, 9} & set(records), 'nothing of what the SVM wrote alone',
           records)


def protection_ends(pair, text):
    """Protection ends for an error; @text is said by the secondary."""
    for vm in pair.primary, pair.secondary:
        event = vm.qmp.wait_event('COLO_EXIT', 60, pair.mark[vm])
        expect(event['data']['reason'] == 'error', 'COLO_EXIT for an error',
               event['data'])
        said(vm, 'COLO: protection ')
    said(pair.secondary, text)


def forwarded(env, image, text, side, mend=True):
    """What the secondary does with the primary's writes fails."""
    pair = failing(env, delay=NEVER)
    pair.checkpoint()
    disk = DiskError(pair.secondary, *image)
    disk.begin(write_fails())
    client = 2 if side == 'primary' else 1
    for number in range(3):
        answer = pair.primary.console.command(
            f'record {client} {pair.next_record + number}')
        expect(answer == 'ok', 'the PVM goes on', answer)
    if client == 1:
        pair.next_record += 3
    pair.primary.qmp.cmd('x-colo-checkpoint')
    protection_ends(pair, text)
    said(pair.primary, "Replication node 'replication0'",
         'a write could not be forwarded to the secondary')
    if side == 'secondary':
        write(pair, 5)
        pair.kill_secondary()
        pair.primary_failover()
    else:
        if mend:
            disk.end()
        pair.kill_primary()
        pair.secondary_failover()
    write(pair, 5)
    records = check(pair)
    expect(2 not in records, 'no record of the epoch that was lost', records)


def emptying(env, image, text):
    """A checkpoint can't be applied: the secondary is of no use any more."""
    pair = failing(env, delay=NEVER)
    pair.checkpoint()
    # what nobody has written to is not emptied
    write(pair, 1)
    expect(pair.secondary.console.command('record 9 1') == 'ok',
           'a write of the SVM', 'none')
    DiskError(pair.secondary, *image).begin(write_fails())
    pair.primary.qmp.cmd('x-colo-checkpoint')
    protection_ends(pair, text)
    said(pair.primary, text)
    vm = pair.secondary
    try:
        vm.qmp.cmd('x-colo-lost-heartbeat')
        expect(False, 'no takeover from half a checkpoint', 'a takeover')
    except QMPError as refused:
        env.note(f'{refused}')
    try:
        vm.qmp.cmd('cont')
    except QMPError as refused:
        env.note(f'{refused}')
    status = vm.qmp.cmd('query-status')
    expect(not status['running'], 'the SVM never runs again', status)
    write(pair, 5)
    pair.kill_secondary()
    pair.primary_failover()
    write(pair, 5)
    check(pair)


def merge(env):
    """The merge after a failover fails: both overlays stay in use."""
    pair = failing(env, delay=NEVER)
    pair.checkpoint()
    DiskError(pair.secondary, *DISK).begin(write_fails())
    # something to merge
    answer = pair.secondary.console.command('record 9 1')
    expect(answer == 'ok', 'the SVM writes', answer)
    pair.kill_primary()
    pair.secondary_failover()
    said(pair.primary, 'merging the active and the hidden disk')
    write(pair, 5)
    check(pair)


BACKUP_TEXT = 'old content of the secondary disk could not be saved'
DISK_TEXT = 'a forwarded write to the secondary disk failed'

suite.add('primary/report', 90, primary_report)
suite.add('primary/stop', 90, primary_stop)
suite.add('primary/stop-failover', 90, primary_stop_failover)
suite.add('active/stop', 120, active, EIO, 'stop', 2, werror='stop')
suite.add('active/report', 90, active, EIO, 'report', werror='report')
suite.add('active/full', 90, active, ENOSPC, 'stop')
suite.add('active/full-ide', 120, active, ENOSPC, 'stop', 2, disk='ide')
suite.add('backup/secondary-lost', 90, forwarded, HIDDEN, BACKUP_TEXT,
          'secondary')
suite.add('backup/primary-lost', 90, forwarded, HIDDEN, BACKUP_TEXT,
          'primary', False)
suite.add('secondary-disk/secondary-lost', 90, forwarded, DISK, DISK_TEXT,
          'secondary')
suite.add('secondary-disk/primary-lost', 90, forwarded, DISK, DISK_TEXT,
          'primary')
suite.add('emptying/active', 90, emptying, ACTIVE,
          'the active disk could not be emptied')
suite.add('emptying/hidden', 90, emptying, HIDDEN,
          'the hidden disk could not be emptied')
suite.add('merge', 90, merge)

if __name__ == '__main__':
    tap.main(suite)
