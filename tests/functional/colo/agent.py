# The clients of a guest, run in a network namespace of their own
#
# A program that is told on its standard input, one JSON object a line, which
# clients to start and to stop, and answers on its standard output. Every
# client is a thread; it checks every byte it gets and records what it saw:
# requests, errors, and the longest time without progress.
#
# SPDX-License-Identifier: GPL-2.0-or-later

import ctypes
import json
import os
import random
import re
import select
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib

PORT = {'control': 7000, 'record': 7001, 'echo': 7002, 'upload': 7003,
        'download': 7004, 'udp': 7005, 'http': 80}
BLOCK = 65536
WWW_FILES = 10


class ClientError(Exception):
    """A connection broke or the content was wrong."""


def splitmix64(state):
    mask = (1 << 64) - 1
    while True:
        state = (state + 0x9e3779b97f4a7c15) & mask
        z = state
        z = ((z ^ (z >> 30)) * 0xbf58476d1ce4e5b9) & mask
        z = ((z ^ (z >> 27)) * 0x94d049bb133111eb) & mask
        yield z ^ (z >> 31)


def stream_block(seed):
    words = splitmix64(seed)
    return bytearray(b''.join(struct.pack('<Q', next(words))
                              for _ in range(BLOCK // 8)))


def www_content(number):
    line = f'file {number} of the test guest\n'.encode()
    return line * (64 << (number % 5))


class Client:
    """What all clients have: progress, gap, the end on the first error"""

    def __init__(self, spec):
        self.spec = spec
        self.name = spec['name']
        self.ip = spec['ip']
        self.stall = spec.get('stall', 60)
        self.interval = spec.get('interval', 0)
        self.stopping = threading.Event()
        self.requests = 0
        self.errors = []
        self.gap = 0.0
        self.last = time.monotonic()
        self.fraction = 0.0
        self.bytes = 0
        self.extra = {}
        self.thread = threading.Thread(target=self.main, daemon=True)

    def progress(self):
        now = time.monotonic()
        self.gap = max(self.gap, now - self.last)
        self.last = now

    def done(self):
        """One request was answered."""
        self.requests += 1
        self.progress()

    def main(self):
        try:
            self.run()
        except (OSError, ClientError) as error:
            self.errors.append(f'{type(error).__name__}: {error} (after '
                               f'{self.requests} requests, '
                               f'{self.bytes} bytes)')
        self.extra['ended'] = True

    def connect(self, kind, timeout=None):
        sock = socket.create_connection((self.ip, PORT[kind]),
                                        timeout or self.stall)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.last = max(self.last, time.monotonic() - self.stall)
        return sock

    def wait(self):
        if self.interval:
            self.stopping.wait(self.interval)
            self.last = max(self.last, min(time.monotonic(), self.last +
                                           self.interval))

    def report(self):
        gap = self.gap
        if not self.extra.get('ended') and not self.stopping.is_set():
            gap = max(gap, time.monotonic() - self.last)
        return {'requests': self.requests, 'errors': self.errors,
                'gap_ms': round(gap * 1000),
                'idle_ms': round((time.monotonic() - self.last) * 1000),
                'fraction': self.fraction,
                'bytes': self.bytes, **self.extra}


class Record(Client):
    """Numbered records, each acknowledged when it is on the disk"""

    def run(self):
        self.extra['acked'] = 0
        client = self.spec['client']
        sock = self.connect('record')
        reader = sock.makefile('rb')
        while not self.stopping.is_set():
            seq = self.extra['acked'] + 1
            payload = 'x' * (seq * 7 % 64 + 1)
            sock.sendall(f'R {client} {seq} {payload}\n'.encode())
            answer = reader.readline()
            if answer != f'A {seq}\n'.encode():
                raise ClientError(f'record {seq} answered with {answer!r}')
            self.extra['acked'] = seq
            self.done()
            self.wait()
        sock.close()


class Echo(Client):
    """A connection that gets back what it sent"""

    def run(self):
        rng = random.Random(self.name)
        sock = self.connect('echo')
        while not self.stopping.is_set():
            data = rng.randbytes(rng.randrange(1, 4096))
            sock.sendall(data)
            got = b''
            while len(got) < len(data):
                part = sock.recv(65536)
                if not part:
                    raise ClientError('connection closed by the guest')
                got += part
            if got != data:
                raise ClientError('echo differs')
            self.bytes += len(data)
            self.done()
            self.wait()
        sock.close()


class Http(Client):
    """A connection for each file"""

    def run(self):
        number = 0
        while not self.stopping.is_set():
            number = (number + 1) % WWW_FILES
            self.get(number)
            self.done()
            self.wait()

    def get(self, number):
        with self.connect('http') as sock:
            sock.sendall(f'GET /f{number} HTTP/1.0\r\n\r\n'.encode())
            data = b''
            while True:
                part = sock.recv(65536)
                if not part:
                    break
                data += part
        head, _, body = data.partition(b'\r\n\r\n')
        if not re.match(rb'HTTP/1\.[01] 200 ', head):
            raise ClientError(f'HTTP answer {head[:60]!r}')
        if body != www_content(number):
            raise ClientError(f'content of /f{number} differs, '
                              f'{len(body)} bytes')
        self.bytes += len(body)


class Pace:
    """Keeps a transfer at a rate, in bytes a second; 0 is no limit"""

    def __init__(self, rate):
        self.rate = rate
        self.next = time.monotonic()

    def wait(self, amount, stopping):
        if self.rate:
            self.next = max(self.next + amount / self.rate,
                            time.monotonic() - 0.1)
            delay = self.next - time.monotonic()
            if delay > 0:
                stopping.wait(delay)


class Transfer(Client):
    """Uploads or downloads of @length, one after the other on a connection"""

    def run(self):
        length = self.spec['length']
        times = self.spec.get('times', 0)
        sock = self.connect(self.spec['kind'])
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 18)
        pace = Pace(self.spec.get('rate', 0))
        number = 0
        while not times or number < times:
            if self.stopping.is_set():
                break
            number += 1
            self.fraction = 0.0
            if not self.one(sock, length, pace, number):
                break
            self.fraction = 1.0
            self.done()
        sock.close()

    def finishing(self):
        """Whether to end in the middle: only if told to, and at once."""
        return self.stopping.is_set() and self.spec.get('abandon', False)


class Upload(Transfer):
    """Answered by the guest with the length and CRC of what it got"""

    def one(self, sock, length, pace, number):
        block = stream_block(zlib.crc32(self.name.encode()) + number)
        sock.sendall(struct.pack('>Q', length))
        crc = 0
        for offset in range(0, length, BLOCK):
            if self.finishing():
                return False
            block[:8] = struct.pack('<Q', offset)
            part = block[:min(BLOCK, length - offset)]
            crc = zlib.crc32(part, crc)
            sock.sendall(part)
            self.bytes += len(part)
            self.fraction = (offset + len(part)) / length
            self.progress()
            pace.wait(len(part), self.stopping)
        answer = b''
        while not answer.endswith(b'\n'):
            got = sock.recv(100)
            if not got:
                raise ClientError('connection closed before the answer')
            answer += got
        expected = f'{length} {crc:08x}\n'.encode()
        if answer != expected:
            raise ClientError(f'upload: expected {expected!r}, '
                              f'seen {answer!r}')
        return True


class Download(Transfer):
    """A stream whose every byte is known"""

    def one(self, sock, length, pace, number):
        seed = zlib.crc32(self.name.encode()) + number
        block = stream_block(seed)
        sock.sendall(f'{seed} {length}\n'.encode())
        pending = bytearray()
        offset = 0
        while offset < length:
            if self.finishing():
                return False
            want = min(BLOCK, length - offset)
            part = sock.recv(min(BLOCK, length - offset - len(pending)))
            if not part:
                raise ClientError(f'connection closed after {offset} bytes')
            pending += part
            self.progress()
            if len(pending) >= want:
                block[:8] = struct.pack('<Q', offset)
                if pending[:want] != block[:want]:
                    raise ClientError('download differs in the block at '
                                      f'{offset}')
                del pending[:want]
                offset += want
                self.bytes += want
                self.fraction = offset / length
                pace.wait(want, self.stopping)
        return True


class Udp(Client):
    """Requests that must not be executed twice; none is sent again"""

    def run(self):
        client = self.spec['client']
        self.extra.update(sent=0, answered=[], lost=0)
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.connect((self.ip, PORT['udp']))
        total = 0
        while not self.stopping.is_set() and self.extra['sent'] < 65000:
            self.extra['sent'] += 1
            seq = self.extra['sent']
            sock.send(f'U {client} {seq}'.encode())
            answer = self.answer(sock, seq, self.spec.get('patience', 1.0))
            if answer is None:
                self.extra['lost'] += 1
                continue
            if answer[0] != 1:
                raise ClientError(f'request {seq} executed {answer[0]} times')
            if answer[1] <= total:
                raise ClientError(f'request {seq} was number {answer[1]}, the '
                                  f'one before it {total}')
            total = answer[1]
            self.extra['answered'].append(seq)
            self.done()
            self.wait()
        sock.close()

    def answer(self, sock, seq, patience):
        end = time.monotonic() + patience
        while True:
            left = end - time.monotonic()
            if left <= 0 or not select.select([sock], [], [], left)[0]:
                return None
            try:
                words = sock.recv(200).split()
            except OSError:
                continue
            if len(words) == 5 and int(words[2]) == seq:
                return int(words[3]), int(words[4])


KINDS = {'record': Record, 'echo': Echo, 'http': Http, 'upload': Upload,
         'download': Download, 'udp': Udp}


class Agent:
    """Runs commands: each is a function of the arguments"""

    def __init__(self):
        self.clients = {}

    def configure(self, address, peers=()):
        for command in (['ip', 'link', 'set', 'lo', 'up'],
                        ['ip', 'link', 'set', 'client1', 'name', 'eth0'],
                        ['ip', 'addr', 'add', address, 'dev', 'eth0'],
                        ['ip', 'link', 'set', 'eth0', 'up']):
            subprocess.run(command, check=True)
        del peers

    def start(self, **spec):
        client = KINDS[spec['kind']](spec)
        self.clients[client.name] = client
        client.thread.start()

    def status(self):
        return {name: c.report() for name, c in self.clients.items()}

    def stop(self, names=None, wait=60):
        chosen = [self.clients[n] for n in names or list(self.clients)]
        for client in chosen:
            client.stopping.set()
        end = time.monotonic() + wait
        reports = {}
        for client in chosen:
            client.thread.join(max(0, end - time.monotonic()))
            if client.thread.is_alive():
                client.errors.append(f'did not end within {wait} s after the '
                                     'stop')
            reports[client.name] = client.report()
            del self.clients[client.name]
        return reports

    def control(self, ip, line, timeout=20):
        """One command to guestd, over a connection of its own."""
        with socket.create_connection((ip, PORT['control']), timeout) as sock:
            sock.settimeout(timeout)
            sock.sendall(line.encode() + b'\n')
            return sock.makefile('rb').readline().decode().rstrip('\n')

    def ping(self):
        return os.getpid()

    def serve(self):
        for line in sys.stdin:
            request = json.loads(line)
            method = getattr(self, request.pop('do'))
            try:
                reply = {'return': method(**request)}
            except Exception as error:
                reply = {'error': f'{type(error).__name__}: {error}'}
            print(json.dumps(reply), flush=True)


def main():
    # End with the test program, whatever ends it.
    ctypes.CDLL(None).prctl(1, 9)
    sys.stdin.reconfigure(encoding='utf-8')
    Agent().serve()


if __name__ == '__main__':
    main()
