# What a running pair is asked while it is measured
#
# SPDX-License-Identifier: GPL-2.0-or-later

import os
import re
import subprocess
import time

from colo.util import TestError, expect

from peers import sides

TICK = os.sysconf('SC_CLK_TCK')


def status_kib(vm, name, field):
    """A field of one of /proc's files about a QEMU that gives sizes."""
    with open(f'/proc/{vm.proc.pid}/{name}', encoding='ascii') as f:
        return int(re.search(rf'^{field}:\s+(\d+) kB', f.read(), re.M)[1])


def memory(pair):
    """MiB that each QEMU holds, others' share taken out, and held at most."""
    result = {}
    for side, vm in sides(pair).items():
        result[f'{side}_pss_mib'] = status_kib(vm, 'smaps_rollup',
                                               'Pss') / 1024
        result[f'{side}_rss_peak_mib'] = status_kib(vm, 'status',
                                                    'VmHWM') / 1024
    return result


def cpu_seconds(vm):
    with open(f'/proc/{vm.proc.pid}/stat', encoding='utf-8') as f:
        fields = f.read().rsplit(')', 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def cpu_by_side(pair):
    return {side: cpu_seconds(vm) for side, vm in sides(pair).items()}


def pauses_ms(vm, since):
    """How long from each STOP to its RESUME, of QMP's events after @since."""
    result, stop = [], None
    with vm.qmp.changed:
        events = list(vm.qmp.events[since:])
    for event in events:
        stamp = event['timestamp']
        now = stamp['seconds'] * 1000 + stamp['microseconds'] / 1000
        if event['event'] == 'STOP':
            stop = now
        elif event['event'] == 'RESUME' and stop is not None:
            result.append(now - stop)
            stop = None
    return result


def bytes_sent():
    """What went over the migration's connections to the secondary so far."""
    text = subprocess.run(['ss', '-Htin', 'dport', '=', ':9998'],
                          stdout=subprocess.PIPE, text=True,
                          check=True).stdout
    return sum(int(n) for n in re.findall(r'\bbytes_sent:(\d+)', text))


def engine(pair):
    """What the checkpoints did so far, as far as QEMU tells it"""
    return pair.stats() if pair.secondary else {}


def phases_ms(before, after):
    """What a checkpoint's time went to, on average between two of engine()"""
    if 'phases-total' not in before:
        return {}
    count = max(1, after['epoch'] - before['epoch'])
    return {f'phase_{name}_ms': (us - before['phases-total'][name]) / 1000 /
            count for name, us in after['phases-total'].items()}


def by_reason(before, after, seconds):
    """Checkpoints a second for each reason, and MiB that each sent"""
    def counts(stats):
        return {c['reason']: (c['count'], c.get('bytes', 0))
                for c in stats.get('checkpoints', ())}
    result, old = {}, counts(before)
    for reason, (count, sent) in counts(after).items():
        count_before, sent_before = old.get(reason, (0, 0))
        if count > count_before:
            more = count - count_before
            result[f'{reason}_checkpoints_per_s'] = more / seconds
            result[f'{reason}_checkpoint_mib'] = (sent - sent_before) / more \
                / 2**20
    return result


def order(pair, line, seconds=60):
    """A command of the guest's that answers ok."""
    answer = pair.primary.console.command(line, seconds)
    expect(answer == 'ok', f'the guest answers ok to {line}', answer)


def number(pair, line):
    """A command of the guest's that answers with a count, and an errno."""
    answer = pair.primary.console.command(line)
    words = answer.split()
    if not words[0].isdigit() or words[1:] not in ([], ['0']):
        raise TestError(f'the guest answers to {line}: {answer}')
    return int(words[0])


def writes_per_s(pair, before, start):
    """Since there were @before. A disk that stands still was not measured."""
    writes, seconds = number(pair, 'written') - before, time.monotonic() - start
    expect(writes > 0, f'writes to the disk within {seconds:.1f} s',
           'none: it stands still')
    return writes / seconds
