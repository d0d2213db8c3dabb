# The documented procedure, read from QEMU's own document
#
# docs/COLO-FT.txt is the interface this project keeps. Tests take the command
# lines and QMP commands from its text, so that they are what a user types.
#
# SPDX-License-Identifier: GPL-2.0-or-later

import glob
import json
import os
import re
import shlex

from .util import TestError, build_dir, cache_dir


def pristine_trees():
    """QEMU's own source: the one the build was made of, or any in the cache"""
    note = os.path.join(os.path.dirname(build_dir()), 'pristine')
    if os.path.exists(note):
        with open(note, encoding='utf-8') as f:
            yield f.read().strip()
    yield from sorted(glob.glob(os.path.join(cache_dir(), 'qemu-10.0*')))


def find_document():
    given = os.environ.get('COLO_DOCUMENT')
    if given:
        return given
    for tree in pristine_trees():
        path = os.path.join(tree, 'docs', 'COLO-FT.txt')
        if os.path.exists(path):
            return path
    raise TestError('docs/COLO-FT.txt of QEMU 10.0 was not found: run '
                    './configure, or set COLO_DOCUMENT')


def shell_commands(text):
    """The commands after "# " prompts, with continued lines joined."""
    joined = text.replace('\\\n', '\0')
    found = []
    for line in joined.splitlines():
        if line.startswith('# '):
            # A continued option goes on at the margin, a new one is indented.
            found.append(re.sub(r'\0(\s*)', lambda m: ' ' if m.group(1)
                                else '', line[2:]))
    return found


def qmp_commands(text):
    return [json.loads(line) for line in text.splitlines()
            if re.match(r'\{\s*"execute"', line)]


class Document:
    """The parts of the procedure by name"""

    def __init__(self):
        with open(find_document(), encoding='utf-8') as f:
            text = f.read()
        parts = re.split(r'^== (.+) ==$', text, flags=re.M)
        sections = dict(zip(parts[1::2], parts[2::2]))
        steps = re.split(r'^(\d)\. .*$', sections['Startup qemu'], flags=re.M)
        steps = dict(zip(steps[1::2], steps[2::2]))
        self.primary = self.command_line(steps['1'])
        self.secondary = self.command_line(steps['2'])
        self.images = [c for c in shell_commands(steps['2'])
                       if c.startswith('qemu-img')]
        self.secondary_setup = qmp_commands(steps['3'])
        self.primary_setup = qmp_commands(steps['4'])
        self.primary_failover = qmp_commands(sections['Primary Failover'])
        self.secondary_failover = qmp_commands(sections['Secondary Failover'])
        self.primary_resume = qmp_commands(
            sections['Primary resume replication'])
        self.secondary_resume = qmp_commands(
            sections['Secondary resume replication'])

    @staticmethod
    def command_line(text):
        line, = [c for c in shell_commands(text)
                 if c.startswith('qemu-system')]
        return shlex.split(line)[1:]
