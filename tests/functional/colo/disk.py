# A guest that writes records to its replicated disk: pairs without a network
#
# SPDX-License-Identifier: GPL-2.0-or-later

from .pair import Options, Pair
from .util import expect, wait_for


def protected(env, disk, **changes):
    pair = Pair(env, Options(**{'nic': '', 'proxy': False, 'disk': disk,
                                'mem': 128, 'delay': 300, 'boot_first': True,
                                **changes}))
    pair.bring_up()
    expect(pair.primary.console.command('disk') == 'ext4', 'a disk', 'none')
    pair.next_record = 1
    return pair


def write(pair, count):
    """Records that the guest says are on the disk."""
    for _ in range(count):
        answer = pair.primary.console.command(f'record 1 {pair.next_record}')
        expect(answer == 'ok', f'record {pair.next_record} is written', answer)
        pair.next_record += 1


def lose(pair, side):
    """Kill a side; what was committed stays, what was not may go."""
    write(pair, 10)
    if side == 'primary':
        pair.checkpoint()
    pair.lose(side)
    write(pair, 10)


def check(pair):
    """Every record is on the disk of the one that is left.

    Returns the records of all clients.
    """
    pair.wait_jobs()
    pair.primary.kill()
    records = pair.records()
    found = records.get(1, [])
    expected = list(range(1, pair.next_record))
    missing = sorted(set(expected) - set(found))
    expect(found == expected, f'records 1 to {expected[-1]} on the disk',
           f'{len(found)} records, missing: {missing[:20]}')
    return records


def said(vm, *texts):
    """All of @texts are in what this QEMU printed for its user."""
    def printed():
        with open(vm.stderr_path, encoding='utf-8', errors='replace') as f:
            return f.read()
    wait_for(lambda: all(text in printed() for text in texts), 30,
             lambda: f'{vm.name} to say: {", ".join(texts)}; seen: {printed()}')
