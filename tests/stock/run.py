#!/usr/bin/env python3
"""QEMU's own tests for what this project replaces, unmodified, as TAP.

usage: run.py QEMU_BUILD QEMU_TREE WHAT...

WHAT is iotests, or the path of a test program in the build folder.

They try KVM first and crawl where it is there but unusable, so /dev/kvm is
hidden from them in a mount namespace.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import os
import subprocess
import sys
from pathlib import Path

# The auto group's tests of mirror, backup, quorum and NBD.
IOTESTS = """041 110 127 141 156 192 229 256 267 283 299 copy-before-write
    iothreads-commit-active nbd-multiconn nbd-qemu-allocation""".split()
IOTESTS_RAW = ["081"]

MARK = "COLO_STOCK_TESTS_ISOLATED"


def isolate():
    """Run again without /dev/kvm."""
    if os.environ.get(MARK) or not os.path.exists("/dev/kvm"):
        return
    env = dict(os.environ, **{MARK: "1"})
    namespaces = "-m" if os.geteuid() == 0 else "-Urm"
    hide = ('f=$(mktemp) && mount --bind "$f" /dev/kvm && rm -f "$f"; '
            'exec "$@"')
    os.execvpe("unshare", ["unshare", namespaces, "sh", "-c", hide, "sh",
                           sys.executable, *sys.argv], env)


def environment(build, tree):
    env = dict(os.environ)
    env.update(
        PYTHON=str(build / "pyvenv/bin/python3"),
        QTEST_QEMU_BINARY=str(build / "qemu-system-x86_64"),
        QTEST_QEMU_IMG=str(build / "qemu-img"),
        QTEST_QEMU_STORAGE_DAEMON_BINARY=str(
            build / "storage-daemon/qemu-storage-daemon"),
        G_TEST_SRCDIR=str(tree / "tests/unit"),
        G_TEST_BUILDDIR=str(build / "tests/unit"))
    return env


def iotests(build, env):
    """Both formats as one TAP stream."""
    folder = build / "tests/qemu-iotests"
    points, failed = [], False
    for fmt, names in ("-qcow2", IOTESTS), ("-raw", IOTESTS_RAW):
        # with this Python: not every other one has libnbd
        done = subprocess.run([env["PYTHON"], "./check", "-tap", fmt, *names],
                              cwd=folder, env=env, stdout=subprocess.PIPE,
                              text=True, stdin=subprocess.DEVNULL,
                              check=False)
        lines = done.stdout.splitlines()
        points += [l for l in lines if not l.startswith(("1..", "TAP"))]
        failed = failed or done.returncode != 0
    count = sum(l.startswith(("ok ", "not ok ")) for l in points)
    print("\n".join(["TAP version 13", *points, f"1..{count}"]), flush=True)
    return failed


def program(build, env, path):
    return subprocess.run([str(build / path), "--tap", "-k"], cwd=build,
                          env=env, stdin=subprocess.DEVNULL,
                          check=False).returncode != 0


def main(build, tree, what):
    isolate()
    build, tree = Path(build), Path(tree)
    env = environment(build, tree)
    if what == "iotests":
        return iotests(build, env)
    return program(build, env, what)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:4]))
