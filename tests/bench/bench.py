#!/usr/bin/python3
# make bench: this tree, stock COLO and a plain VM, measured in one run
#
# usage: bench.py [--quick] [--repeat N] [--peers LIST] BUILD [BENCH...]
#
# All peers have a VM or pair, and take turns at each workload in another order
# each time, while the others rest: what else the machine does hits them alike.
# Writes BUILD/bench.json, BUILD/bench.md and plots in BUILD/bench.
#
# SPDX-License-Identifier: GPL-2.0-or-later

import argparse
import json
import os
import subprocess
import sys
import threading

HERE = os.path.dirname(os.path.abspath(__file__))
REPO = os.path.dirname(os.path.dirname(HERE))
sys.path[1:1] = [os.path.join(REPO, 'tests', 'functional'),
                 os.path.join(REPO, 'scripts')]
sys.dont_write_bytecode = True

from colo.guest import Guest  # noqa: E402
from tree import packages  # noqa: E402
from tree.say import Failure  # noqa: E402

import parts  # noqa: E402
import render  # noqa: E402
import results  # noqa: E402
import table  # noqa: E402
from peers import PEERS  # noqa: E402

AT_ONCE = os.cpu_count()    # guests that boot side by side
ANSWER_LIMIT = 900          # seconds; every wait of a task has its own


def parse():
    parser = argparse.ArgumentParser()
    parser.add_argument('--quick', action='store_true',
                        help='three repetitions of the headline workloads')
    parser.add_argument('--repeat', type=int, metavar='N')
    parser.add_argument('--peers', default=','.join(PEERS))
    parser.add_argument('build')
    parser.add_argument('parts', nargs='*', metavar='BENCH')
    args = parser.parse_args()
    args.top = os.path.abspath(args.build)
    args.parts = [p for words in args.parts for p in words.split(',')]
    args.repeat = args.repeat or (3 if args.quick else 5)
    known = parts.parts(args.top)
    for name in args.parts:
        if name not in known:
            parser.error(f'no bench {name}; there are ' + ', '.join(known))
    for name in args.peers.split(','):
        if name not in PEERS:
            parser.error(f'no peer {name}; there are ' + ', '.join(PEERS))
    return args


def build_programs(top):
    folder = os.path.join(top, 'bench')
    os.makedirs(folder, exist_ok=True)
    for name in 'load', 'packets':
        subprocess.run(['gcc', '-O2', '-Wall', '-o',
                        os.path.join(folder, name),
                        os.path.join(HERE, name + '.c'), '-lm'], check=True)
    os.environ['COLO_BENCH_LOAD'] = os.path.join(folder, 'load')


def check_built(top, peers):
    for peer in peers:
        program = os.path.join(top, peer.build, 'qemu-system-x86_64')
        if not os.path.exists(program):
            sys.exit(f'peer {peer.name}: {program} is not there: run make '
                     'build stock, or leave it out with --peers')


class Worker:
    """A peer's process; see worker.py"""

    def __init__(self, args, peer, mem):
        self.peer = peer
        self.mem = mem
        self.proc = subprocess.Popen(
            [sys.executable, os.path.join(HERE, 'worker.py'), args.top,
             peer.name, str(mem), str(int(args.quick))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, request):
        try:
            self.proc.stdin.write(json.dumps(request) + '\n')
            self.proc.stdin.flush()
        except BrokenPipeError:
            pass            # answer() tells

    def answer(self):
        limit = threading.Timer(ANSWER_LIMIT, self.proc.kill)
        limit.start()
        line = self.proc.stdout.readline()
        limit.cancel()
        return json.loads(line) if line else \
            {'failure': 'the worker ended, its messages are above, or did '
             f'not answer within {ANSWER_LIMIT} s'}

    def close(self):
        try:
            self.proc.stdin.close()
        except BrokenPipeError:
            pass            # it has ended before
        self.proc.wait()
        self.proc.stdout.close()


class Run:
    """The chosen parts, on guests of one size"""

    def __init__(self, args, book, mem):
        self.args = args
        self.book = book
        self.mem = mem
        self.peers = [PEERS[n] for n in args.peers.split(',')]
        self.parts = {n: p for n, p in parts.parts(args.top).items()
                      if mem in p.sizes[:1 if args.quick else None] and
                      (n in args.parts or not args.parts and
                       (p.quick or not args.quick))}
        self.workers = {}

    def tasks(self, end):
        """(part, task, peers): those that end their pair, or the others."""
        for name, part in self.parts.items():
            found = {}
            for peer in self.peers:
                for task in parts.tasks(part, peer, self.args.quick, self.mem):
                    if task.ends == end:
                        found.setdefault((task.bench, task.workload),
                                         (task, []))[1].append(peer)
            for task, peers in found.values():
                yield name, task, peers

    def bring_up(self, peers):
        """As many at a time as there are CPUs; a failure comes again later."""
        for i in range(0, len(peers), AT_ONCE):
            some = [self.workers[p.name] for p in peers[i:i + AT_ONCE]]
            for worker in some:
                worker.ask({'up': True})
            for worker in some:
                worker.answer()

    def measure(self, part, task, peer):
        worker = self.workers[peer.name]
        worker.ask({'part': part, 'bench': task.bench,
                    'workload': task.workload})
        answer = worker.answer()
        if 'metrics' in answer:
            self.book.add(peer.name, self.mem, task, answer['metrics'])
        else:
            self.book.fail(peer.name, self.mem, task, answer['failure'],
                           answer.get('logs'))

    def turns(self, end):
        tasks = list(self.tasks(end))
        # new pairs each time take much of the quick run's time
        repeat = min(self.args.repeat, 2) if end and self.args.quick else \
            self.args.repeat
        for number in range(repeat if tasks else 0):
            self.book.next_repetition(number, repeat)
            for part, task, peers in tasks:
                by = number % len(peers)
                if end:
                    self.bring_up(peers)
                for peer in peers[by:] + peers[:by]:
                    self.measure(part, task, peer)
            self.book.write()

    def run(self):
        if not self.parts:
            return
        self.book.say('guests of {} MiB: {}'.format(
            self.mem, ', '.join(p.name for p in self.peers))
            if self.mem else 'without a guest')
        self.workers = {p.name: Worker(self.args, p, self.mem)
                        for p in self.peers}
        if self.mem:
            self.bring_up(self.peers)
        self.turns(False)
        self.turns(True)
        for worker in self.workers.values():
            worker.close()


def draw(top):
    """Debian's matplotlib belongs to Debian's Python."""
    folder = os.path.join(top, 'bench')
    done = subprocess.run(['/usr/bin/python3', '-B',
                           os.path.join(HERE, 'plots.py'),
                           os.path.join(top, 'bench.json'), folder],
                          check=False)
    print('plots: ' + (folder if done.returncode == 0 else
                       'none, they need the package python3-matplotlib'))


def write_report(top, book):
    for name, form in (('md', render.markdown), ('rst', render.rst)):
        with open(os.path.join(top, f'bench.{name}'), 'w',
                  encoding='utf-8') as f:
            f.write(form(table.report(book)))


def install():
    try:
        packages.install(['python3-matplotlib'])
    except Failure as failure:
        print(f'no plots: {failure}')


def main():
    args = parse()
    install()
    build_programs(args.top)
    chosen = [PEERS[n] for n in args.peers.split(',')]
    check_built(args.top, chosen)
    # once, and not by several workers at the same time
    Guest('cloud')
    book = results.Book(args.top, results.meta(args.quick, args.top, chosen))
    for mem in (*parts.SIZES, 0):
        Run(args, book, mem).run()
    write_report(args.top, book)
    print(render.markdown([*table.head(book), table.headline(book)]))
    draw(args.top)


if __name__ == '__main__':
    main()
