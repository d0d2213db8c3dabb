#!/usr/bin/python3
# One peer of the benchmark, in namespaces of its own
#
# usage: worker.py BUILD PEER MIB 0|1
#
# Reads lines of JSON and answers each with one: {"up": true} brings a pair up,
# {"part": ..., "bench": ..., "workload": ...} measures. Between two tasks the
# pair rests, as other peers are measured then. The last argument is for the
# quick run's tasks.
#
# SPDX-License-Identifier: GPL-2.0-or-later

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
REPO = os.path.dirname(os.path.dirname(HERE))
sys.path[1:1] = [os.path.join(REPO, 'tests', 'functional'),
                 os.path.join(REPO, 'scripts')]
sys.dont_write_bytecode = True

from colo import net  # noqa: E402
from colo.tap import Env  # noqa: E402
from colo.util import TestError, expect, wait_for  # noqa: E402

import parts  # noqa: E402
from peers import PEERS, bring_up, sides  # noqa: E402

LOG_LIMIT = 1 << 20         # bytes; what is larger is an image
REST_MS = 600000            # until the next checkpoint
SETTLED = 0.3               # seconds, for a checkpoint that is under way


def use_tmpfs():
    """Images in memory: the host's disk is not what is measured."""
    folder = tempfile.mkdtemp(prefix='colo-bench-')
    subprocess.run(['mount', '-t', 'tmpfs', 'tmpfs', folder], check=True)
    tempfile.tempdir = folder


class Rest:
    """What a pair does while others are measured: nothing

    QEMU's own COLO can't be stopped by QMP and go on: its processes are, while
    no checkpoint is due.
    """

    def __init__(self, peer, pair):
        self.peer = peer
        self.pair = pair
        self.stops = peer.build == 'qemu'

    def delay(self, ms):
        if self.pair.secondary:
            self.pair.primary.qmp.cmd('migrate-set-parameters',
                                      {'x-checkpoint-delay': ms})

    def commit(self, status):
        """The SVM does what the PVM does with the next commit."""
        if self.pair.secondary:
            self.pair.primary.qmp.cmd('x-colo-checkpoint')
            wait_for(lambda: self.pair.secondary.qmp.cmd('query-status')
                     ['running'] == status, 20, 'the SVM to follow', 0.01)

    def signal(self, number):
        for vm in sides(self.pair).values():
            vm.proc.send_signal(number)

    def begin(self):
        self.delay(REST_MS)
        if self.stops:
            self.pair.primary.qmp.cmd('stop')
            self.commit(False)
        else:
            time.sleep(SETTLED)
            self.signal(signal.SIGSTOP)

    def end(self):
        if self.stops:
            self.pair.primary.qmp.cmd('cont')
            self.commit(True)
        else:
            self.signal(signal.SIGCONT)
        self.delay(self.peer.period_ms)


class Worker:
    """Pairs of one peer, one after the other"""

    def __init__(self, top, peer, mem, quick):
        self.top = top
        self.peer = peer
        self.mem = mem
        self.parts = parts.parts(top)
        self.quick = quick
        self.env = self.pair = self.rest = None
        self.refused = ''       # why no pair came up

    def up(self):
        """It would not come up the next time either, after its limits."""
        expect(not self.refused, 'a pair', self.refused)
        if self.pair:
            return
        self.env = Env(f'{self.peer.name}-{self.mem}')
        self.env.note = lambda text: None
        try:
            self.pair = bring_up(self.env, self.top, self.peer, self.mem)
            self.rest = Rest(self.peer, self.pair)
            self.rest.begin()
        except Exception as error:
            self.refused = f'none came up: {error}'
            raise

    def find(self, request):
        part = self.parts[request['part']]
        return part, next(
            task for task in parts.tasks(part, self.peer, self.quick, self.mem)
            if (task.bench, task.workload) == (request['bench'],
                                               request['workload']))

    def measure(self, request):
        part, task = self.find(request)
        if not part.pair:
            return task.run(None)
        self.up()
        self.rest.end()
        metrics = task.run(self.pair)
        if task.ends:
            self.close()
        else:
            self.rest.begin()
        return metrics

    def answer(self, request):
        """Whatever goes wrong belongs to the task, not to the whole run."""
        try:
            if 'up' in request:
                self.up()
                return {}
            return {'metrics': self.measure(request)}
        except Exception as error:  # pylint: disable=broad-except
            text = str(error) if isinstance(error, TestError) else \
                f'{type(error).__name__}: {error}'
            return {'failure': text, 'logs': self.close(request)}

    def close(self, failed=None):
        """End the pair; returns where its logs are, if it @failed."""
        env, self.env, self.pair = self.env, None, None
        logs = ''
        if env:
            env.close()
            if failed:
                logs = self.keep_logs(env, failed)
            shutil.rmtree(env.folder, ignore_errors=True)
        return logs

    def keep_logs(self, env, request):
        words = [request[n] for n in ('bench', 'workload') if n in request]
        target = os.path.join(self.top, 'bench', 'failed', '-'.join(
            [self.peer.name, str(self.mem), *words]))
        os.makedirs(target, exist_ok=True)
        for name in os.listdir(env.folder):
            path = os.path.join(env.folder, name)
            if os.path.isfile(path) and os.path.getsize(path) < LOG_LIMIT:
                shutil.copy(path, target)
        return target


def main():
    top, peer, mem, quick = sys.argv[1:]
    net.enter()
    net.need_tun()
    use_tmpfs()
    worker = Worker(top, PEERS[peer], int(mem), quick == '1')
    # what the harness prints is not an answer
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        print(json.dumps(worker.answer(json.loads(line))), file=answers,
              flush=True)
    worker.close()


if __name__ == '__main__':
    main()
