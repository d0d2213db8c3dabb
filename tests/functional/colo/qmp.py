# A QMP client: commands, out-of-band commands, events, a limit on each wait
#
# SPDX-License-Identifier: GPL-2.0-or-later

import json
import threading

from .util import Deadline, SCALE, TestError, Timeout


class QMPError(TestError):
    """QEMU refused a command."""

    def __init__(self, command, error):
        super().__init__(f'{command}: {error.get("desc")}')
        self.error = error
        self.desc = error.get('desc', '')


class QMPClosed(TestError):
    """The monitor ended before the answer."""


class QMP:
    """A monitor on two file objects, for bytes in and out"""

    def __init__(self, reader, writer, name, log=None):
        self.reader = reader
        self.writer = writer
        self.name = name
        self.log = log
        self.events = []
        self.seen = {}
        self.next_id = 0
        self.closed = False
        self.greeting = None
        self.replies = {}
        self.changed = threading.Condition()
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def note(self, text):
        """Write a line into the log of this monitor."""
        if self.log:
            self.log.write(text + '\n')
            self.log.flush()

    def _read(self):
        try:
            for line in self.reader:
                self.note('<- ' + line.decode(errors='replace').rstrip())
                self._take(json.loads(line))
        except (OSError, ValueError):
            pass
        with self.changed:
            self.closed = True
            self.changed.notify_all()

    def _take(self, message):
        with self.changed:
            if 'QMP' in message:
                self.greeting = message['QMP']
            elif 'event' in message:
                self.events.append(message)
            else:
                self.replies[message.get('id')] = message
            self.changed.notify_all()

    def close(self):
        try:
            self.writer.close()
        except OSError:
            pass

    def _wait(self, check, seconds, what):
        deadline = Deadline(seconds)
        with self.changed:
            while True:
                result = check()
                if result is not None:
                    return result
                if self.closed:
                    raise QMPClosed(f'{self.name}: the monitor closed while '
                                    f'waiting for {what}')
                if deadline.passed():
                    raise Timeout(f'{self.name}: expected within '
                                  f'{seconds * SCALE:g} s: {what}')
                self.changed.wait(deadline.left())

    def wait_greeting(self, seconds=30):
        self._wait(lambda: self.greeting, seconds, 'the QMP greeting')

    def send(self, message, key='execute'):
        """Send a command and return its id, without waiting."""
        with self.changed:
            self.next_id += 1
            number = self.next_id
        message = dict(message)
        if key != 'execute':
            message[key] = message.pop('execute')
        message['id'] = number
        text = json.dumps(message)
        self.note('-> ' + text)
        try:
            self.writer.write(text.encode() + b'\n')
            self.writer.flush()
        except (OSError, ValueError) as error:
            raise QMPClosed(f'{self.name}: {error}') from error
        return number

    def wait_reply(self, number, command, seconds=30):
        reply = self._wait(lambda: self.replies.pop(number, None), seconds,
                           f'the answer to {command}')
        if 'error' in reply:
            raise QMPError(command, reply['error'])
        return reply['return']

    def execute(self, message, seconds=30):
        """Send a command as in a document: {"execute": ..., ...}"""
        number = self.send(message)
        return self.wait_reply(number, message['execute'], seconds)

    def cmd(self, command, arguments=None, seconds=30, oob=False):
        message = {'execute': command}
        if arguments:
            message['arguments'] = arguments
        number = self.send(message, 'exec-oob' if oob else 'execute')
        return self.wait_reply(number, command, seconds)

    def hmp(self, line, seconds=30):
        return self.cmd('human-monitor-command', {'command-line': line},
                        seconds)

    def mark(self):
        """A place in the stream of events to wait from."""
        with self.changed:
            return len(self.events)

    def count(self, name, since=0):
        with self.changed:
            return sum(e['event'] == name for e in self.events[since:])

    def find(self, name, **data):
        """Events @name with these members of data."""
        with self.changed:
            return [e for e in self.events if e['event'] == name and
                    data.items() <= e.get('data', {}).items()]

    def wait_event(self, name, seconds=30, since=0, match=None, times=1):
        """The @times-th event @name after mark @since that @match accepts."""
        def check():
            found = [e for e in self.events[since:] if e['event'] == name and
                     (match is None or match(e.get('data', {})))]
            return found[times - 1] if len(found) >= times else None
        return self._wait(check, seconds, f'{times} x event {name}')
