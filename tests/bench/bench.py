#!/usr/bin/python3
# make bench: this tree, stock COLO and a plain VM, measured in one run
#
# usage: bench.py [--quick] [--repeat N] [--peers LIST] BUILD [BENCH...]
#
# Peers take turns, each repetition with QEMUs of its own and in another order.
# Writes BUILD/bench.json, BUILD/bench.md and plots in BUILD/bench.
#
# SPDX-License-Identifier: GPL-2.0-or-later

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass

HERE = os.path.dirname(os.path.abspath(__file__))
REPO = os.path.dirname(os.path.dirname(HERE))
sys.path[1:1] = [os.path.join(REPO, 'tests', 'functional'),
                 os.path.join(REPO, 'scripts')]
sys.dont_write_bytecode = True

from colo import net  # noqa: E402
from colo.tap import Env  # noqa: E402
from colo.util import Skip, TestError, expect  # noqa: E402
from tree import packages  # noqa: E402
from tree.say import Failure  # noqa: E402

import compare  # noqa: E402
import disk  # noqa: E402
import failover  # noqa: E402
import micro  # noqa: E402
import pause  # noqa: E402
import results  # noqa: E402
import table  # noqa: E402
import traffic  # noqa: E402
from peers import PEERS, bring_up  # noqa: E402

SIZES = (512, 256, 1024, 4096)
LOG_LIMIT = 1 << 20         # bytes; what is larger is an image


@dataclass(frozen=True)
class Part:
    """What BENCH= can name: tasks by peer, and the guests they are for"""
    tasks: tuple
    sizes: tuple = (512,)
    pair: bool = True


def parts(top, quick):
    every = {
        'pause': Part((pause.tasks,), SIZES[:1] if quick else SIZES),
        'latency': Part((traffic.latency, traffic.mix)),
        'throughput': Part((traffic.throughput, disk.tasks)),
        'failover': Part((failover.tasks,)),
        'compare': Part((compare.tasks(top),), (0,), False),
        'micro': Part((micro.tasks(top),), (0,), False),
    }
    if not quick:
        return every
    # one pair for as much as can be
    joined = [f for name in ('pause', 'latency', 'throughput', 'failover')
              for f in every[name].tasks if f is not traffic.mix]
    return {'all': Part(tuple(joined)), 'compare': every['compare']}


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
    known = parts(args.top, args.quick)
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


def use_tmpfs():
    """Images in memory: the host's disk is not what is measured."""
    folder = tempfile.mkdtemp(prefix='colo-bench-')
    subprocess.run(['mount', '-t', 'tmpfs', 'tmpfs', folder], check=True)
    tempfile.tempdir = folder


class PairOfTasks:
    """One pair after the other, each until a task fails or ends it"""

    def __init__(self, book, part, peer, mem):
        self.book = book
        self.part = part
        self.peer = peer
        self.mem = mem
        self.env = self.pair = None
        self.refused = ''       # why no pair came up

    def get(self):
        expect(not self.refused, 'a pair', self.refused)
        if self.part.pair and not self.pair:
            self.env = Env(f'{self.peer.name}-{self.mem}')
            self.env.note = lambda text: None
            try:
                self.pair = bring_up(self.env, self.book.top, self.peer,
                                     self.mem)
            except Exception as error:
                # it would not for the next task either, after its limits
                self.refused = f'none came up: {error}'
                raise
        return self.pair

    def run(self, task):
        """Whatever goes wrong belongs to the task, not to the whole run."""
        try:
            self.book.add(self.peer.name, self.mem, task, task.run(self.get()))
            if task.ends:
                self.close()
        except Exception as error:  # pylint: disable=broad-except
            self.book.fail(self.peer.name, self.mem, task,
                           str(error) if isinstance(error, TestError)
                           else f'{type(error).__name__}: {error}')
            self.close(task)

    def close(self, failed=None):
        env, self.env, self.pair = self.env, None, None
        if env:
            env.close()
            if failed:
                self.keep_logs(env, failed)
            shutil.rmtree(env.folder, ignore_errors=True)

    def keep_logs(self, env, task):
        target = os.path.join(
            self.book.top, 'bench', 'failed', f'{self.peer.name}-{task.bench}-'
            f'{task.workload}-{self.book.repetition}')
        os.makedirs(target, exist_ok=True)
        for name in os.listdir(env.folder):
            path = os.path.join(env.folder, name)
            if os.path.isfile(path) and os.path.getsize(path) < LOG_LIMIT:
                shutil.copy(path, target)
        self.book.say(f'  logs: {target}')


def run_part(book, part, peer, mem, quick):
    runner = PairOfTasks(book, part, peer, mem)
    for tasks in part.tasks:
        for task in tasks(peer, quick, mem):
            runner.run(task)
    runner.close()


def rotated(items, by):
    by %= len(items)
    return items[by:] + items[:by]


def run(args, book, chosen):
    wanted = {n: p for n, p in parts(args.top, args.quick).items()
              if not args.parts or n in args.parts}
    repeat = args.repeat or (3 if args.quick else 5)
    for number in range(repeat):
        book.next_repetition(number, repeat)
        for name, part in wanted.items():
            for peer in rotated(chosen, number):
                for mem in part.sizes:
                    book.say(f'{name}: {peer.name}'
                             + (f', {mem} MiB' if mem else ''))
                    run_part(book, part, peer, mem, args.quick)
        book.write()


def draw(top):
    """Debian's matplotlib belongs to Debian's Python."""
    folder = os.path.join(top, 'bench')
    done = subprocess.run(['/usr/bin/python3', '-B',
                           os.path.join(HERE, 'plots.py'),
                           os.path.join(top, 'bench.json'), folder],
                          check=False)
    print('plots: ' + (folder if done.returncode == 0 else
                       'none, they need the package python3-matplotlib'))


def install():
    try:
        packages.install(['python3-matplotlib'])
    except Failure as failure:
        print(f'no plots: {failure}')


def main():
    args = parse()
    try:
        if not os.environ.get(net.MARK):
            install()
        net.enter()
        net.need_tun()
    except (Skip, TestError) as error:
        sys.exit(str(error))
    use_tmpfs()
    build_programs(args.top)
    chosen = [PEERS[n] for n in args.peers.split(',')]
    check_built(args.top, chosen)
    book = results.Book(args.top, results.meta(args.quick, args.top, chosen))
    run(args, book, chosen)
    text = '\n'.join(table.markdown(book)) + '\n'
    with open(os.path.join(args.top, 'bench.md'), 'w', encoding='utf-8') as f:
        f.write(text)
    print(text)
    draw(args.top)


if __name__ == '__main__':
    main()
