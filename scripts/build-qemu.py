#!/usr/bin/env python3
#
# Build QEMU and the tests we run in its build folder, then note that it is
# done: build-qemu.py BUILD_FOLDER STAMP
#
# SPDX-License-Identifier: GPL-2.0-or-later

import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(REPO / "scripts"))

from tree import assemble, fetch  # noqa: E402
from tree.say import Failure  # noqa: E402

STOCK_TESTS = """tests/unit/test-replication tests/qtest/test-filter-mirror
    tests/qtest/test-filter-redirector tests/qtest/test-netfilter
    tests/qtest/migration-test""".split()


def known_targets(build):
    text = subprocess.run(["ninja", "-C", build, "-t", "targets", "all"],
                          capture_output=True, text=True, check=True).stdout
    return {line.rsplit(":", 1)[0] for line in text.splitlines()}


def whole(build):
    """Whether ./configure came to its end, and nothing changed since."""
    folder = build.parent
    try:
        pristine = Path((folder / "pristine").read_text(encoding="utf-8"))
        want = assemble.fingerprint(REPO, pristine,
                                    fetch.check_version(pristine))
        have = (folder / "tree.stamp").read_text(encoding="utf-8")
    except (OSError, Failure):
        return False
    return have == want and (build / "configured").exists()


def main(build, stamp):
    if not whole(Path(build)):
        sys.exit("the hooks or the list of files changed since QEMU's tree "
                 "was assembled, or it could not be: run ./configure")
    # lists of files may have changed since: they are read anew first
    subprocess.run(["ninja", "-C", build, "--quiet", "build.ninja"],
                   check=True)
    known = known_targets(build)
    ours = sorted(t for t in known
                  if t.startswith(("tests/unit/test-colo-",
                                   "tests/qtest/colo-", "tests/fuzz/replay-",
                                   "tests/bench/colo/bench-"))
                  and "." not in Path(t).name and "@" not in t)
    wanted = ["qemu-system-x86_64", "qemu-img", "qemu-io", "qemu-nbd",
              "storage-daemon/qemu-storage-daemon", *ours,
              *(t for t in STOCK_TESTS)]
    wanted = [t for t in wanted if t in known]
    subprocess.run(["ninja", "-C", build, *wanted], check=True)
    Path(stamp).touch()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
