#!/usr/bin/python3
# Plots of the benchmark's results, as SVG and PNG
#
# usage: plots.py BENCH.JSON FOLDER
#
# Peers differ in colour (Okabe and Ito's, for all eyes), marker, line and
# hatching, so that they are told apart in black and white too.
#
# SPDX-License-Identifier: GPL-2.0-or-later

import json
import os
import sys

import matplotlib
matplotlib.use('svg')
from matplotlib import pyplot  # noqa: E402

STYLE = {
    'plain': {'color': '#000000', 'marker': 'o', 'ls': ':', 'hatch': ''},
    'stock': {'color': '#d55e00', 'marker': 's', 'ls': '--', 'hatch': '///'},
    'stock-tuned': {'color': '#e69f00', 'marker': 'D', 'ls': '-.',
                    'hatch': '\\\\\\'},
    'ours': {'color': '#0072b2', 'marker': '^', 'ls': '-', 'hatch': 'xxx'},
    'ours-periodic': {'color': '#56b4e9', 'marker': 'v', 'ls': '-',
                      'hatch': '...'},
}
RATES = ('idle', 'dirty-1', 'dirty-16', 'dirty-64', 'dirty-128', 'dirty-max')
THROUGHPUT = (('http', 'full', 'per_s'), ('http-nodate', 'full', 'per_s'),
              ('echo', 'full', 'per_s'), ('churn', 'full', 'per_s'),
              ('download', '64MiB', 'mib_per_s'),
              ('upload', '64MiB', 'mib_per_s'),
              ('disk-seq', 'full', 'mib_per_s'),
              ('disk-rand4k', 'full', 'per_s'),
              ('disk-sync4k', 'full', 'per_s'))


class Results:
    """The rows of bench.json by what they are about"""

    def __init__(self, path):
        with open(path, encoding='utf-8') as f:
            data = json.load(f)
        self.rows = self.by_key(data['results'])
        self.ratios = self.by_key(r for r in data['ratios']
                                  if r['over'] == 'plain')
        self.latency = data['latency']
        seen = {r['peer'] for r in data['results']}
        self.peers = [p for p in STYLE if p in seen]

    @staticmethod
    def by_key(rows):
        return {(r['bench'], r['workload'], r['metric'], r['peer']): r
                for r in rows if r['guest_mib'] in (0, 512)}

    def get(self, *key):
        return self.rows.get(key)


def spread(row):
    """How far the lowest and highest are from the median."""
    return [[row['median'] - row['min']], [row['max'] - row['median']]]


def line(axes, xs, rows, peer):
    style = STYLE[peer]
    errors = [[r['median'] - r['min'] for r in rows],
              [r['max'] - r['median'] for r in rows]]
    axes.errorbar(xs, [r['median'] for r in rows], errors, label=peer,
                  color=style['color'], marker=style['marker'],
                  linestyle=style['ls'], capsize=3)


def pause(results, axes, metric='primary_pause_ms'):
    for peer in results.peers:
        rows = [results.get('pause', name, metric, peer) for name in RATES]
        rates = [results.get('pause', name, 'dirtied_mib_per_s', peer)
                 for name in RATES]
        found = sorted((rate['median'], row['median'], row)
                       for rate, row in zip(rates, rows) if row and rate)
        if found:
            line(axes, [f[0] for f in found], [f[2] for f in found], peer)
    axes.set_xlabel('memory the guest wrote, MiB/s')
    axes.set_ylabel('primary stands still for, ms')
    axes.set_ylim(bottom=0)


def latency(results, axes, bench='http-nodate'):
    for entry in results.latency:
        if (entry['bench'], entry['workload']) != (bench, 'full'):
            continue
        style = STYLE[entry['peer']]
        points = [p for p in entry['curve'] if 0 < p[0] < 1]
        axes.plot([1 / (1 - p[0]) for p in points], [p[1] for p in points],
                  label=entry['peer'], color=style['color'],
                  marker=style['marker'], linestyle=style['ls'])
    axes.set_xscale('log')
    axes.set_yscale('log')
    axes.set_xticks([2, 10, 100, 1000], ['50', '90', '99', '99.9'])
    axes.minorticks_off()
    axes.set_xlabel(f'{bench}: part of the requests, %')
    axes.set_ylabel('answered within, ms')


def bars(axes, results, names, value):
    """One group for each of @names: (label, key without the peer)."""
    width = 0.8 / max(1, len(results.peers))
    for number, peer in enumerate(results.peers):
        style = STYLE[peer]
        label = peer
        for group, (_, key) in enumerate(names):
            found = value(key, peer)
            if found is None:
                continue
            height, errors = found
            axes.bar(group + (number + 0.5) * width - 0.4, height, width,
                     yerr=errors, capsize=2, color=style['color'], alpha=0.75,
                     hatch=style['hatch'], edgecolor='black', linewidth=0.5,
                     label=label)
            label = None
    axes.set_xticks(range(len(names)), [n for n, _ in names], rotation=20,
                    ha='right')


def throughput(results, axes):
    def value(key, peer):
        row = results.ratios.get((*key, peer))
        return row and (row['median'], spread(row))
    names = [(key[0], key) for key in THROUGHPUT
             if results.get(*key, 'plain')]
    bars(axes, results, names, value)
    axes.set_ylabel('of what a plain VM does')
    axes.axhline(1, color='black', linewidth=0.5)


def absolute(results):
    def value(key, peer):
        row = results.get(*key, peer)
        return row and (row['median'], spread(row))
    return value


def memory(results, axes):
    names = [(f'{side}, {workload}', ('memory', workload, f'{side}_pss_mib'))
             for workload in ('idle', 'dirty-64')
             for side in ('primary', 'secondary')]
    bars(axes, results, names, absolute(results))
    axes.set_ylabel('memory of QEMU (PSS), MiB')


def failover(results, axes):
    names = [(f'{side} killed', ('failover', f'{side}_killed', 'gap_ms'))
             for side in ('primary', 'secondary')]
    bars(axes, results, names, absolute(results))
    axes.set_ylabel('nobody answers for, ms')


PLOTS = {'pause': pause, 'latency': latency, 'throughput': throughput,
         'memory': memory, 'failover': failover}


def strip_lines(path):
    """No blanks at the ends of lines: these plots are kept in docs."""
    with open(path, encoding='utf-8') as f:
        lines = [line.rstrip() for line in f]
    with open(path, 'w', encoding='utf-8') as f:
        f.write('\n'.join(lines) + '\n')


def draw(path, folder):
    results = Results(path)
    os.makedirs(folder, exist_ok=True)
    for name, plot in PLOTS.items():
        figure, axes = pyplot.subplots(figsize=(7, 4.2))
        plot(results, axes)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8)
        axes.grid(axis='y', linewidth=0.3)
        figure.tight_layout()
        for kind in 'svg', 'png':
            figure.savefig(os.path.join(folder, f'{name}.{kind}'), dpi=150,
                           metadata={'Date': None} if kind == 'svg' else None)
        strip_lines(os.path.join(folder, f'{name}.svg'))
        pyplot.close(figure)


if __name__ == '__main__':
    draw(*sys.argv[1:])
