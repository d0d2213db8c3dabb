"""How the build scripts speak: one line per step, and failures that help.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import subprocess
import sys


class Failure(Exception):
    """A step failed; the text says what happened and what to do."""

    def __init__(self, what, todo):
        super().__init__(f"{what}\n  what to do: {todo}")


def step(text):
    print(f"==> {text}", flush=True)


def run(command, what, todo, **kwargs):
    """Run COMMAND quietly; on failure show the end of its output."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True,
                              errors="replace", stdin=subprocess.DEVNULL,
                              check=False, **kwargs)
    except FileNotFoundError as err:
        raise Failure(f"{what}: {err.filename} is not installed",
                      todo) from err
    if done.returncode:
        tail = "\n".join(done.stdout.splitlines()[-15:])
        raise Failure(f"{what} failed:\n{tail}", todo)
    return done.stdout


def report(failure):
    print(f"configure: {failure}", file=sys.stderr)
