# What the benchmark found, kept until it is summed up
#
# SPDX-License-Identifier: GPL-2.0-or-later

import json
import os
import platform
import statistics
import subprocess
import time

from colo.util import ROOT

from peers import PEERS

# How a metric's name ends: (unit, whether more is better)
METRICS = {
    'checkpoints_per_s': ('1/s', False),
    'mib_per_s': ('MiB/s', True),
    'per_s': ('1/s', True),
    'cpu_ms_each': ('ms', False),
    'cpu_us_each': ('us', False),
    '_ms': ('ms', False),
    '_mib': ('MiB', False),
    'bytes_per_epoch': ('bytes', False),
    'mpps': ('M packets/s', True),
    'ns_per_packet': ('ns', False),
}
# What each peer is compared with
BASES = ('plain', 'stock', 'stock-tuned')


def unit_of(metric):
    return next(about for end, about in METRICS.items()
                if metric.endswith(end))


def is_memory(metric):
    return metric.endswith(('_pss_mib', '_rss_peak_mib'))


def output(*command):
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, text=True, check=False)
    return done.stdout.strip()


def cpu_model():
    with open('/proc/cpuinfo', encoding='utf-8') as f:
        for line in f:
            if line.startswith('model name'):
                return line.split(':', 1)[1].strip()
    return platform.machine()


def revision():
    commit = output('git', 'rev-parse', '--short=12', 'HEAD')
    changed = output('git', 'status', '--porcelain', '--untracked-files=no')
    return commit + (' with changes' if changed else '')


def version(top, build):
    program = os.path.join(top, build, 'qemu-system-x86_64')
    return output(program, '--version').split('\n', 1)[0]


def memory_gib():
    pages, size = (os.sysconf(n) for n in ('SC_PHYS_PAGES', 'SC_PAGE_SIZE'))
    return round(pages * size / 2**30)


def meta(quick, top, peers):
    with open(os.path.join(top, 'qemu', 'configured'), encoding='utf-8') as f:
        options = json.load(f)[1]
    result = {'date': time.strftime('%Y-%m-%d'), 'revision': revision(),
              'cpu': cpu_model(), 'cpus': os.cpu_count(),
              'memory_gib': memory_gib(), 'kernel': platform.release(),
              'compiler': output('gcc', '--version').split('\n', 1)[0],
              'options': ' '.join(options), 'accelerator': 'TCG',
              'images': 'tmpfs', 'network': 'loopback and a bridge',
              'quick': quick}
    for peer in peers:
        result[peer.name] = (f'{peer.about}; a checkpoint each '
                             f'{peer.period_ms} ms' if peer.protected
                             else peer.about) + '; ' + version(top,
                                                               peer.build)
    return result


def described(metric):
    unit, more = unit_of(metric)
    return {'unit': unit, 'better': 'higher' if more else 'lower'}


def spread(values):
    values = list(values)
    return {'median': statistics.median(values), 'min': min(values),
            'max': max(values), 'n': len(values)}


class Book:
    """Values by bench, workload, guest size, metric, peer and repetition"""

    def __init__(self, top, about):
        self.top = top
        self.start = time.monotonic()
        self.meta = about
        self.repetition = 0
        self.values = {}
        self.curves = {}
        self.failures = {}

    def say(self, text):
        print(f'[{time.monotonic() - self.start:6.0f} s] {text}', flush=True)

    def next_repetition(self, number, of):
        self.repetition = number
        self.say(f'repetition {number + 1} of {of}')

    def add(self, peer, mem, task, metrics):
        curve = metrics.pop('curve', None)
        if curve:
            self.curves.setdefault((task.bench, task.workload), {}) \
                .setdefault(peer, []).append(curve)
        self.say(f'{task.bench} {task.workload}, {peer}: ' + ', '.join(
            f'{m} {v:.4g}' for m, v in metrics.items()))
        for metric, value in metrics.items():
            bench = 'memory' if is_memory(metric) else task.bench
            self.values.setdefault((bench, task.workload, mem, metric), {}) \
                .setdefault(peer, {})[self.repetition] = value

    def fail(self, peer, mem, task, text, logs=None):
        text = ' '.join(text.split('\n')[:2])
        self.say(f'{task.bench} {task.workload}, {peer}: failed: {text}' +
                 (f'; logs: {logs}' if logs else ''))
        self.failures.setdefault((task.bench, task.workload, mem, peer),
                                 []).append(text)

    def rows(self):
        for (bench, workload, mem, metric), peers in self.values.items():
            for peer in (p for p in PEERS if p in peers):
                yield {'bench': bench, 'workload': workload, 'peer': peer,
                       'guest_mib': mem, 'metric': metric,
                       **described(metric), **spread(peers[peer].values())}

    def ratios(self, key, peer, base):
        """@peer over @base, repetition by repetition."""
        ours, theirs = (self.values[key].get(p, {}) for p in (peer, base))
        return [ours[n] / theirs[n] for n in ours if theirs.get(n)]

    def ratio_rows(self):
        for key, peers in self.values.items():
            for peer, base in ((p, b) for p in PEERS for b in BASES
                               if p != b and p in peers):
                found = self.ratios(key, peer, base)
                if found:
                    bench, workload, mem, metric = key
                    yield {'bench': bench, 'workload': workload,
                           'peer': peer, 'over': base, 'guest_mib': mem,
                           'metric': metric, **spread(found)}

    def failed(self):
        for (bench, workload, mem, peer), texts in self.failures.items():
            yield {'bench': bench, 'workload': workload, 'guest_mib': mem,
                   'peer': peer, 'n': len(texts), 'message': texts[0]}

    def curve_rows(self):
        """Latency by quantile: medians over the repetitions."""
        for (bench, workload), peers in self.curves.items():
            for peer, curves in peers.items():
                yield {'bench': bench, 'workload': workload, 'peer': peer,
                       'curve': [[points[0][0], statistics.median(
                           ms for _, ms in points)]
                           for points in zip(*curves)]}

    def write(self):
        path = os.path.join(self.top, 'bench.json')
        with open(path, 'w', encoding='utf-8') as f:
            json.dump({'meta': self.meta, 'results': list(self.rows()),
                       'ratios': list(self.ratio_rows()),
                       'failures': list(self.failed()),
                       'latency': list(self.curve_rows())}, f, indent=1)
            f.write('\n')
