# The load program, on the host of the client
#
# SPDX-License-Identifier: GPL-2.0-or-later

import json
import os
import subprocess
import threading

from colo.guest import GUEST_IP
from colo.util import TestError

PORT = {'http': 80, 'control': 7000, 'echo': 7002, 'download': 7004,
        'upload': 7006, 'page': 7007}
GRACE = 60                  # seconds


def on_client(pair, *words):
    """A program on the client's host; it reads from a pipe, and is read."""
    proc = subprocess.Popen(
        ['nsenter', f'--net=/proc/{pair.clients.proc.pid}/ns/net', *words],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def close():
        proc.kill()
        proc.wait()
    pair.env.callback(close)
    return proc


class Load:
    """A load that ends after @seconds; see load.c"""

    def __init__(self, pair, kind, port, seconds, argument=None):
        words = [os.environ['COLO_BENCH_LOAD'], kind, GUEST_IP,
                 str(PORT[port]), str(seconds)]
        if argument:
            words.append(str(argument))
        self.proc = on_client(pair, *words)
        self.limit = threading.Timer(seconds + GRACE, self.proc.kill)
        self.limit.daemon = True
        self.limit.start()

    def result(self):
        """What it saw when its time is up"""
        text = self.proc.stdout.read()
        status = self.proc.wait()
        self.limit.cancel()
        if status:
            raise TestError(f'the load ended with status {status}')
        return json.loads(text)


def checked(seen):
    """A client that had an error, or no answer, has measured nothing."""
    if seen['failure']:
        raise TestError(seen['failure'])
    if not seen['answers'] and not seen['bytes']:
        raise TestError(f'no answer in {seen["seconds"]} s')
    return seen
