# Try all the time whether the guest answers
#
# usage: probe.py IP PORT, until the end of standard input
#
# Every 20 ms a new connection is tried and a byte sent, to be echoed, whether
# others have answered or not. Prints the times of the answers (as of
# time.monotonic()), as a JSON list.
#
# SPDX-License-Identifier: GPL-2.0-or-later

import json
import selectors
import socket
import sys
import time

INTERVAL = 0.02             # seconds
MOST = 900                  # at once


class Prober:
    """Connections under way, and when answers came"""

    def __init__(self, address):
        self.address = address
        self.waiting = selectors.DefaultSelector()
        self.times = []

    def begin(self):
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex(self.address)
        self.waiting.register(sock, selectors.EVENT_WRITE)

    def step(self, sock, connected):
        try:
            if connected:
                sock.send(b'p')
                self.waiting.modify(sock, selectors.EVENT_READ)
                return
            if sock.recv(1):
                self.times.append(time.monotonic())
        except OSError:
            pass
        self.waiting.unregister(sock)
        sock.close()

    def run(self, stop):
        """Until @stop is readable"""
        self.waiting.register(stop, selectors.EVENT_READ)
        due = time.monotonic()
        while True:
            if time.monotonic() >= due:
                due += INTERVAL
                if len(self.waiting.get_map()) < MOST:
                    self.begin()
            left = max(0, due - time.monotonic())
            for key, events in self.waiting.select(left):
                if key.fileobj is stop:
                    return
                self.step(key.fileobj, events & selectors.EVENT_WRITE)


def main():
    prober = Prober((sys.argv[1], int(sys.argv[2])))
    prober.run(sys.stdin)
    print(json.dumps(prober.times))


if __name__ == '__main__':
    main()
