#!/usr/bin/python3
# Open transfers through failovers: ten uploads and ten downloads of 64 MiB,
# and UDP requests that must not be executed twice
#
# SPDX-License-Identifier: GPL-2.0-or-later

import os
import random

from colo import tap
from colo.clients import MIB
from colo.pair import Options, Pair
from colo.rounds import finish, protect_again
from colo.util import wait_for

suite = tap.Suite()
COUNT = 10
SEED = int(os.environ.get('COLO_TEST_SEED', '0')) or \
    random.SystemRandom().randrange(1, 1 << 31)


def start_transfers(clients, count, length):
    names = []
    for number in range(count):
        for kind in 'upload', 'download':
            name = f'{kind}{number}'
            clients.start(name, kind, length=length, times=1, stall=120)
            names.append(name)
    return names


def progress(clients, names):
    status = clients.status()
    clients.check(status)
    return sum(status[n]['fraction'] for n in names) / len(names)


def wait_mean(clients, names, mean, seconds):
    wait_for(lambda: progress(clients, names) >= mean, seconds,
             lambda: f'transfers at {mean:.0%} on average, seen '
             f'{progress(clients, names):.0%}', 0.05)


def transfers(env, count, length, sides):
    rng = random.Random(SEED)
    env.note(f'seed {SEED}; set COLO_TEST_SEED to repeat the kill points')
    pair = Pair(env, Options(nic='virtio-net-pci', disk='virtio', mem=256,
                             delay=1000))
    pair.bring_up()
    clients = pair.clients
    clients.wait_reachable()
    clients.start('udp', 'udp', client=1, interval=0.02)
    clients.start('records', 'record', client=1, interval=0.02)
    names = start_transfers(clients, count, length)
    for index, side in enumerate(sides):
        mean = (index + rng.uniform(0.1, 0.9)) / len(sides) * 0.8
        wait_mean(clients, names, mean, 150)
        env.note(f'the {side} dies at {progress(clients, names):.0%}')
        pair.lose(side)
        if index + 1 < len(sides):
            protect_again(pair)
    wait_for(lambda: all(clients.status()[n]['requests'] == 1 for n in names)
             or clients.check(), 200, lambda: 'all transfers complete, seen '
             f'{progress(clients, names):.0%}', 0.2)
    finish(pair)


suite.add('ten-each', 400, transfers, COUNT, 64 * MIB,
          ('primary', 'secondary'))
suite.add('few', 150, transfers, 2, 16 * MIB, ('primary', 'secondary'))

if __name__ == '__main__':
    tap.main(suite)
