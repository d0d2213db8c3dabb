# A served guest through failovers: what the documented test and the demo do
#
# SPDX-License-Identifier: GPL-2.0-or-later

from .clients import check_records
from .util import expect, wait_for

TRANSFERS = ('upload', 'download')


def serve(pair, **usual):
    """A protected guest with clients of all kinds."""
    pair.bring_up()
    expect(pair.primary.console.command('disk') == 'ext4',
           'the guest has mounted its disk', 'it has not')
    pair.clients.wait_reachable()
    pair.clients.start_usual(**usual)
    pair.clients.wait_progress()
    check_devices(pair)


def check_devices(pair):
    """The secondary's virtio devices are what the primary's are.

    One that does nothing is noticed by nobody until it has taken over.
    """
    if 'virtio' not in pair.options.nic + pair.options.disk:
        return
    pair.checkpoint()
    for vm in pair.primary, pair.secondary:
        for device in vm.qmp.cmd('x-query-virtio'):
            status = vm.qmp.cmd('x-query-virtio-status',
                                {'path': device['path']})
            expect(not status['disabled'] and not status['broken'],
                   f'{vm.name}: {device["name"]} works', status)


def silent(pair):
    """Start watching the SVM's tap: returns a check that nothing left it."""
    tap, name = pair.shost.tap, pair.secondary.name
    before = pair.bridge.sent_by_guest(tap)

    def check():
        now = pair.bridge.sent_by_guest(tap)
        expect(now == before, f'no packet leaves {name} while it is the '
               'secondary', f'{now - before} packets')
    return check


def check_held(pair, before, count):
    """
    No answer and no packet leaves the primary while @count UDP requests are
    lost to their sender's patience, counted from when @before have been: until
    then what was released before may still leave. Returns what clients have
    seen then, and at the end.
    """
    clients, tap = pair.clients, pair.phost.tap
    clients.lose_requests(before)
    settled = clients.status()['udp']
    sent = pair.bridge.sent_by_guest(tap)
    clients.lose_requests(count)
    now = clients.status()['udp']
    expect(now['requests'] == settled['requests'], 'no answers before the '
           'commit', now['requests'] - settled['requests'])
    leaked = pair.bridge.sent_by_guest(tap) - sent
    expect(leaked == 0, 'no packet before the commit', leaked)
    return settled, now


def lose(pair, side, low=0.1, high=0.85):
    """Kill one side in the middle of transfers; the survivor serves."""
    names = [n for n in TRANSFERS if n in pair.clients.status()]
    if names:
        pair.clients.wait_middle(names, low, high)
    pair.lose(side)
    pair.clients.wait_progress(60)


def protect_again(pair):
    """A new secondary, resync, protection back, and the guest serves."""
    pair.resume()
    pair.clients.wait_progress(60)


def finish(pair):
    """Stop the clients and check all they saw; returns their reports."""
    clients = pair.clients
    clients.check()
    reports = clients.stop()
    clients.check(reports)
    if 'udp' in reports:
        clients.check_udp()
    vm = pair.primary
    if pair.secondary:
        pair.kill_secondary()
    wait_for(lambda: not vm.qmp.cmd('query-block-jobs'), 60,
             'the end of the merge')
    vm.kill()
    records = pair.records()
    check_records(reports, records)
    return reports, records


def table(rows):
    """Rows of cells as lines, columns aligned."""
    widths = [max(len(str(row[i])) for row in rows)
              for i in range(len(rows[0]))]
    return ['  '.join(str(cell).ljust(width) if i == 0 else
                      str(cell).rjust(width)
                      for i, (cell, width) in enumerate(zip(row, widths)))
            for row in rows]


def report_rows(reports):
    rows = [('client', 'requests', 'errors', 'longest gap ms')]
    for name, report in reports.items():
        rows.append((name, report['requests'], len(report['errors']),
                     report['gap_ms']))
    return rows
