# A TCP relay that cuts, stalls or corrupts a stream after its n-th byte
#
# SPDX-License-Identifier: GPL-2.0-or-later

import socket
import threading

from .util import wait_for

CHUNK = 65536


class Fault:
    """What happens to a stream, once

    kind: "cut" closes both ends, "stall" stops forwarding in both directions
    and closes nothing, "corrupt" inverts one byte. to_server: in which
    direction bytes are counted. offset: how many pass before.
    """

    def __init__(self, kind, to_server, offset):
        self.kind = kind
        self.to_server = to_server
        self.offset = offset
        self.fired = threading.Event()

    def __str__(self):
        way = 'to the server' if self.to_server else 'to the client'
        return f'{self.kind} after byte {self.offset} {way}'


class Relay:
    """Forwards connections to @port of itself to @target, an (ip, port)"""

    def __init__(self, listen, target):
        self.target = target
        self.fault = None
        self.passed = {True: 0, False: 0}
        self.base = {True: 0, False: 0}
        self.lock = threading.Lock()
        self.open = []
        self.closed = False
        self.stalled = False
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(listen)
        self.listener.listen(16)
        threading.Thread(target=self._accept, daemon=True).start()

    def arm(self, fault):
        """@fault strikes, counted from the bytes passed so far."""
        with self.lock:
            self.base = dict(self.passed)
            self.fault = fault
        if fault.offset == 0 and fault.kind != 'corrupt':
            self._strike(fault)

    def wait_fired(self, seconds=30):
        fault = self.fault
        wait_for(fault.fired.is_set, seconds, lambda: f'the relay does: '
                 f'{fault}; seen {self.passed} bytes')

    def _accept(self):
        while not self.closed:
            try:
                client = self.listener.accept()[0]
            except OSError:
                return
            try:
                server = socket.create_connection(self.target, 10)
                server.settimeout(None)
            except OSError:
                client.close()
                continue
            for sock in client, server:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self.lock:
                self.open += [client, server]
            for source, sink, to_server in ((client, server, True),
                                            (server, client, False)):
                threading.Thread(target=self._forward, daemon=True,
                                 args=(source, sink, to_server)).start()

    def watcher(self):
        """Something to call with all that passes on one way of a stream."""
        return lambda data: None

    def _forward(self, source, sink, to_server):
        watch = self.watcher()
        try:
            while True:
                data = source.recv(CHUNK)
                if not data:
                    break
                watch(data)
                for part in self._filter(data, to_server):
                    sink.sendall(part)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            self._drop(source, sink)

    def _filter(self, data, to_server):
        """The parts of @data to pass on; an error ends the connection."""
        with self.lock:
            fault = self.fault
            start = self.passed[to_server] - self.base[to_server]
            self.passed[to_server] += len(data)
        if self.stalled:
            threading.Event().wait()
        hit = (fault and not fault.fired.is_set() and
               fault.to_server == to_server and
               start + len(data) > fault.offset)
        if not hit:
            yield data
            return
        keep = fault.offset - start
        if fault.kind == 'corrupt':
            yield (data[:keep] + bytes([data[keep] ^ 0xff]) + data[keep + 1:])
            fault.fired.set()
            return
        yield data[:keep]
        self._strike(fault)
        if fault.kind == 'stall':
            threading.Event().wait()
        raise ConnectionError('cut')

    def _strike(self, fault):
        if fault.kind == 'stall':
            self.stalled = True
        else:
            self.cut()
        fault.fired.set()

    def _drop(self, *socks):
        for sock in socks:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def cut(self):
        """Close every open connection."""
        with self.lock:
            socks, self.open = self.open, []
        self._drop(*socks)
        for sock in socks:
            sock.close()

    def close(self):
        self.closed = True
        self._drop(self.listener)
        self.listener.close()
        self.cut()
