# A TCP relay that cuts, stalls or corrupts a stream after its n-th byte
#
# SPDX-License-Identifier: GPL-2.0-or-later

import re
import socket
import threading

from .util import wait_for

CHUNK = 65536


class Fault:
    """What happens to a stream, once

    kind: "cut" closes both ends, "stall" stops forwarding in both directions
    until release() and closes nothing, "corrupt" inverts one byte.
    to_server: in which direction bytes are counted. offset: how many pass
    before; they are counted from the beginning of what @pattern, a regular
    expression of bytes, matches first, if there is one.
    """

    def __init__(self, kind, to_server, offset, pattern=None):
        self.kind = kind
        self.to_server = to_server
        self.offset = offset
        self.pattern = re.compile(pattern, re.S) if pattern else None
        self.fired = threading.Event()

    def __str__(self):
        way = 'to the server' if self.to_server else 'to the client'
        after = f' of {self.pattern.pattern}' if self.pattern else ''
        return f'{self.kind} after byte {self.offset}{after} {way}'


class Relay:
    """Forwards connections to @port of itself to @target, an (ip, port)"""

    def __init__(self, listen, target):
        self.target = target
        self.fault = None
        self.start = None       # of the counted bytes, in those passed
        self.passed = {True: 0, False: 0}
        self.lock = threading.Lock()
        self.open = []
        self.deaf = None
        self.closed = False
        self.stalled = False
        self.closing = threading.Condition(self.lock)
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(listen)
        self.listener.listen(16)
        threading.Thread(target=self._accept, daemon=True).start()

    def arm(self, fault):
        """@fault strikes, counted from the bytes passed so far."""
        with self.lock:
            self.start = None if fault.pattern else \
                self.passed[fault.to_server]
            self.fault = fault
        if fault.offset == 0 and fault.kind != 'corrupt' and \
                not fault.pattern:
            self._strike(fault)

    def reset(self):
        """No fault any more; what is connected or stalled is closed."""
        with self.lock:
            self.fault = None
            self.stalled = False
        self.cut()

    def release(self):
        """What stalled goes on."""
        with self.closing:
            self.stalled = False
            self.closing.notify_all()

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
                for part in self._filter(data, to_server, source):
                    sink.sendall(part)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            while sink is self.deaf and source.recv(CHUNK):
                continue
            self._drop(source, sink)

    def _position(self, fault, data):
        """Where in @data, which passes next, @fault strikes, or None."""
        passed = self.passed[fault.to_server]
        if self.start is None:
            found = fault.pattern.search(data)
            if not found:
                return None
            self.start = passed + found.start()
        at = self.start + fault.offset - passed
        return at if at < len(data) else None

    def _filter(self, data, to_server, sock):
        """The parts of @data to pass on; an error ends the connection."""
        with self.lock:
            fault = self.fault
            at = None
            if fault and fault.to_server == to_server and \
                    not fault.fired.is_set():
                at = self._position(fault, data)
            self.passed[to_server] += len(data)
        if self.stalled:
            self._hang(sock)
        if at is None:
            yield data
            return
        if fault.kind == 'corrupt':
            yield data[:at] + bytes([data[at] ^ 0xff]) + data[at + 1:]
            fault.fired.set()
            return
        yield data[:at]
        self._strike(fault)
        if fault.kind != 'stall':
            raise ConnectionError('cut')
        self._hang(sock)
        yield data[at:]

    def _hang(self, sock):
        """Pass nothing on until release(), or until cut() closes @sock."""
        with self.closing:
            self.closing.wait_for(lambda: not self.stalled or
                                  sock not in self.open)
            if sock not in self.open:
                raise ConnectionError('closed')

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
        with self.closing:
            socks, self.open = self.open, []
            self.closing.notify_all()
        self._drop(*socks)
        for sock in socks:
            sock.close()

    def end_last(self):
        """The server sees an end of the connection that was made last.

        What comes from the client is taken and dropped.
        """
        self.deaf = self.open[-1]
        self.deaf.shutdown(socket.SHUT_WR)

    def close(self):
        self.closed = True
        self._drop(self.listener)
        self.listener.close()
        self.cut()
