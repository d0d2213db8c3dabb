# The benchmark's results as a report
#
# SPDX-License-Identifier: GPL-2.0-or-later

import statistics

import model
from peers import PEERS
from render import Heading, Items, Table, Text
from results import unit_of

HEADLINE = (
    ('pause', 'idle', 'primary_pause_ms'),
    ('pause', 'dirty-64', 'primary_pause_ms'),
    ('pause', 'dirty-128', 'primary_pause_ms'),
    ('pause', 'idle', 'secondary_pause_ms'),
    ('pause', 'dirty-64', 'secondary_pause_ms'),
    ('pause', 'idle', 'held_ms'),
    ('pause', 'dirty-64', 'held_ms'),
    ('memory', 'idle', 'primary_pss_mib'),
    ('memory', 'dirty-64', 'secondary_pss_mib'),
    ('http', 'full', 'per_s'),
    ('http-nodate', 'full', 'per_s'),
    ('echo', 'full', 'p50_ms'),
    ('echo', 'full', 'p99_ms'),
    ('download', '64MiB', 'mib_per_s'),
    ('upload', '64MiB', 'mib_per_s'),
    ('disk-seq', 'full', 'mib_per_s'),
    ('disk-sync4k', 'full', 'per_s'),
    ('failover', 'primary_killed', 'gap_ms'),
    ('failover', 'secondary_killed', 'gap_ms'),
    ('compare', '64B-1conn', 'mpps'),
    ('compare', '1460B-1conn', 'mpps'),
)


def amount(value):
    """Three digits that count."""
    if abs(value) >= 1e6:
        return f'{value / 1e6:.3g}M'
    return f'{value:.0f}' if abs(value) >= 100 else f'{value:.3g}'


def cell(values):
    if not values:
        return 'n/a'
    middle = amount(statistics.median(values))
    low, high = amount(min(values)), amount(max(values))
    return f'{middle} ({low}-{high})' if low != high else middle


def ratio_cell(ratios):
    return f'{statistics.median(ratios):.2f}' if ratios else 'n/a'


def peer_cell(book, key, peer):
    bench, workload, mem, metric = key
    values = list(book.values[key].get(peer, {}).values())
    task = 'pause' if bench == 'memory' else bench
    return 'failed' if not values and \
        (task, workload, mem, peer) in book.failures else cell(values)


def row(book, key, peers):
    bench, workload, mem, metric = key
    unit, more = unit_of(metric)
    yield f'{bench} {workload}' + (f', {mem} MiB' if mem not in (0, 512)
                                   else '')
    yield f'{metric} ({unit}, {"more" if more else "less"} is better)'
    for peer in peers:
        yield peer_cell(book, key, peer)
    yield ratio_cell(book.ratios(key, 'ours', 'stock-tuned'))
    yield ratio_cell(book.ratios(key, 'ours', 'plain'))


def table(book, keys):
    peers = [p for p in PEERS if any(p in book.values[k] for k in keys)]
    return Table(['workload', 'metric', *peers, 'ours / tuned',
                  'ours / plain'],
                 [list(row(book, key, peers)) for key in keys], 2)


def failures(book):
    for failure in book.failed():
        yield ('{bench} {workload}, {guest_mib} MiB: {peer} failed {n} '
               'times: {message}').format(**failure)


def headline_keys(book):
    return [key for wanted in HEADLINE for key in book.values
            if (key[0], key[1], key[3]) == wanted and key[2] in (0, 512)]


def head(book):
    yield Heading(1, 'Benchmark')
    yield Items([f'{name}: {value}' for name, value in book.meta.items()])
    yield Text('Medians (lowest-highest) over the repetitions; ratios are '
               'medians of those taken repetition by repetition.')


def headline(book):
    return table(book, headline_keys(book))


def rest(book):
    yield Heading(2, 'Everything')
    yield table(book, sorted(book.values))
    yield Heading(2, 'The model')
    yield from model.report(book)
    yield Heading(2, 'Failed')
    yield Items(list(failures(book)) or ['nothing'])


def report(book):
    """Blocks: what was measured on, the headline, all the rest, failures."""
    yield from head(book)
    yield headline(book)
    yield from rest(book)
