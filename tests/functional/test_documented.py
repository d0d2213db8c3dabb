#!/usr/bin/python3
# The procedure of QEMU's COLO-FT document, word for word, with a guest that
# serves all the time
#
# SPDX-License-Identifier: GPL-2.0-or-later

from colo import tap
from colo.pair import Options, Pair
from colo.rounds import (finish, lose, protect_again, report_rows, serve,
                         silent, table)

suite = tap.Suite(guests=('cloud', 'full'))
MIB = 1 << 20


def procedure(env, count, length=64 * MIB, **changes):
    """
    @count rounds: primary lost and replaced, secondary lost and replaced; with
    transfers of @length bytes each
    """
    pair = Pair(env, Options(**changes))
    serve(pair, rate=4 * MIB, length=length)
    check = silent(pair)
    for number in range(count):
        for side in 'primary', 'secondary':
            env.note(f'round {number + 1}: the {side} dies; statistics '
                     f'{pair.stats()}')
            check()
            lose(pair, side)
            protect_again(pair)
            check = silent(pair)
    check()
    reports, records = finish(pair)
    for line in table(report_rows(reports)):
        env.note(line)
    env.note(f'records acknowledged {reports["records"]["acked"]}, on disk '
             f'{len(records.get(1, []))}')


# The documented NIC drops what its ring has no room for, independently in both
# guests, so that an upload is slow under protection: the transfers are short.
suite.add('as-documented', 400, procedure, 3, length=16 * MIB)
suite.add('e1000-ide', 150, procedure, 1, nic='e1000', delay=2000)
suite.add('virtio-iothread', 150, procedure, 1, nic='virtio-net-pci',
          disk='virtio', delay=2000, mem=256)
suite.add('virtio-smp2', 150, procedure, 1, nic='virtio-net-pci',
          disk='virtio', delay=2000, mem=256, smp=2)
suite.add('virtio-multifd', 150, procedure, 1, nic='virtio-net-pci',
          disk='virtio', delay=2000, mem=256, multifd=2)

if __name__ == '__main__':
    tap.main(suite)
