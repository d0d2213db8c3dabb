# What a client of the guest sees: latency, requests and bytes a second
#
# SPDX-License-Identifier: GPL-2.0-or-later

import functools
import time

from load import Load, checked
from pause import working_set
from peers import check_protected
from probes import (by_reason, cpu_by_side, engine, number, order,
                    writes_per_s)
from tasks import Task

MIB = 1 << 20
# (bench, workload): kind of load, port, requests a second. A fixed rate is one
# that every peer can keep.
REQUESTS = {
    ('http', 'full'): ('http', 'http', None),
    ('http', '5-per-s'): ('http', 'http', 5),
    ('http-nodate', 'full'): ('http', 'page', None),
    ('http-nodate', '5-per-s'): ('http', 'page', 5),
    ('echo', 'full'): ('echo', 'echo', None),
    ('churn', 'full'): ('churn', 'echo', None),
}
QUICK_REQUESTS = (('http', 'full'), ('http-nodate', 'full'), ('echo', 'full'))
TRANSFERS = ('download', 'upload')
TRANSFER_MIB = 64
SECONDS = 4                 # two periods
QUICK_SECONDS = 1.5
WARM_UP = 0.3               # seconds
# Quantiles, and from how many answers on they mean something
QUANTILES = (('p50_ms', 0.5, 1), ('p99_ms', 0.99, 100),
             ('p999_ms', 0.999, 1000), ('max_ms', 1, 1))


def request_metrics(seen):
    curve = dict(seen['curve'])
    result = {'per_s': seen['answers'] / seen['seconds']}
    for name, quantile, least in QUANTILES:
        if seen['answers'] >= least:
            result[name] = curve[quantile]
    return result


def with_costs(pair, work):
    """Metrics of @work(), with what each of its units took."""
    checkpoints = pair.committed() if pair.secondary else 0
    stats = engine(pair)
    before, start = cpu_by_side(pair), time.monotonic()
    result = work()
    seconds = time.monotonic() - start
    check_protected(pair)
    done = seconds * (result.get('per_s') or result.get('mib_per_s') or 0)
    if done:
        for side, used in cpu_by_side(pair).items():
            result[f'{side}_cpu_ms_each'] = 1000 * (used - before[side]) / done
    if pair.secondary:
        result['checkpoints_per_s'] = (pair.committed() -
                                       checkpoints) / seconds
        result.update(by_reason(stats, engine(pair), seconds))
    return result


def requests(pair, kind, port, rate, seconds):
    curve = []

    def work():
        seen = checked(Load(pair, kind, port, seconds, rate).result())
        curve.extend(seen['curve'])
        return request_metrics(seen)
    Load(pair, kind, port, WARM_UP, rate).result()
    return {**with_costs(pair, work), 'curve': curve}


def transfer(pair, kind, seconds):
    def work():
        seen = checked(Load(pair, kind, kind, seconds,
                            TRANSFER_MIB).result())
        return {'mib_per_s': seen['bytes'] / MIB / seen['seconds']}
    Load(pair, kind, kind, WARM_UP, TRANSFER_MIB).result()
    return with_costs(pair, work)


def latency(peer, quick, mem):
    seconds = QUICK_SECONDS if quick else SECONDS
    for key in QUICK_REQUESTS if quick else REQUESTS:
        kind, port, rate = REQUESTS[key]
        yield Task(*key, functools.partial(requests, kind=kind, port=port,
                                           rate=rate, seconds=seconds))


def throughput(peer, quick, mem):
    for kind in TRANSFERS:
        yield Task(kind, f'{TRANSFER_MIB}MiB', functools.partial(
            transfer, kind=kind, seconds=QUICK_SECONDS if quick else SECONDS))


def mixed(pair):
    """Requests of three kinds, disk writes and dirty memory, all at once"""
    size = working_set(pair.options.mem)
    order(pair, f'scatter {size} 16 1')
    order(pair, 'writes sync4k')
    before, start = number(pair, 'written'), time.monotonic()
    loads = {name: Load(pair, kind, port, 2 * SECONDS, 5)
             for name, kind, port in (('http', 'http', 'http'),
                                      ('echo', 'echo', 'echo'),
                                      ('page', 'http', 'page'))}
    result = {}
    for name, load in loads.items():
        for metric, value in request_metrics(checked(load.result())).items():
            result[f'{name}_{metric}'] = value
    result['writes_per_s'] = writes_per_s(pair, before, start)
    order(pair, 'writes off')
    order(pair, f'scatter {size} 0 1')
    check_protected(pair)
    return result


def mix(peer, quick, mem):
    yield Task('mix', 'all', mixed)
