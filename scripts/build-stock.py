#!/usr/bin/env python3
"""Build the stock QEMUs that the benchmark compares with.

usage: build-stock.py BUILD

From the pristine tree that BUILD was made of, with the same options, into
BUILD/stock and BUILD/stock-tuned: with the one fix without which stock COLO
deadlocks under TCG, and with two more that make its pauses short; the latter
with the benchmark of the replication driver.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import json
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(REPO / "scripts"))

from tree import assemble, cli  # noqa: E402
from tree.say import Failure, report, step  # noqa: E402

PATCHES = REPO / "tests/bench/stock"
BENCHMARKS = "tests/bench/colo"
PEERS = {"stock": ["bql"],
         "stock-tuned": ["bql", "nodelay", "ticks", "replication"]}
TARGETS = ["qemu-system-x86_64", "qemu-img"]
TARGETS_OF = {"replication": f"{BENCHMARKS}/bench-colo-replication"}


def make_tree(pristine, folder, names):
    """FOLDER/tree, made anew when it comes from something else."""
    def make(new, _):
        assemble.copy_pristine(pristine, new)
        for name in names:
            assemble.apply_patch(new, PATCHES / f"{name}.patch")
        (new / BENCHMARKS).symlink_to(REPO / BENCHMARKS)

    texts = [(PATCHES / f"{n}.patch").read_text(encoding="utf-8")
             for n in names]
    folder.mkdir(parents=True, exist_ok=True)
    return assemble.renewed(folder, json.dumps([str(pristine), texts]), make)[0]


def build(top, name, names):
    pristine = Path((top / "pristine").read_text(encoding="utf-8").strip())
    _, options = json.loads((top / "qemu/configured")
                            .read_text(encoding="utf-8"))
    folder = top / name
    step(f"building {name}: QEMU with its own COLO")
    tree = make_tree(pristine, folder, names)
    cli.configure_with(tree, folder / "qemu", options)
    cli.link_firmware(folder / "qemu")
    (folder / "pristine").write_text(str(pristine), encoding="utf-8")
    targets = TARGETS + [TARGETS_OF[n] for n in names if n in TARGETS_OF]
    subprocess.run(["ninja", "-C", str(folder / "qemu"), "--quiet", *targets],
                   check=True)


def main(top):
    top = Path(top).resolve()
    try:
        for name, names in PEERS.items():
            build(top, name, names)
    except Failure as failure:
        report(failure)
        return 1
    except subprocess.CalledProcessError:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
