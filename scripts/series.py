#!/usr/bin/env python3
"""Export the assembled tree as a patch series, and check that it is one.

usage: series.py BUILD

BUILD/series gets what git format-patch makes of: the stock implementation
removed, our files added, area by area, and each hook of patches/series. The
series is then applied to the pristine tree, compared with the assembled tree
file by file, and given to QEMU's checkpatch.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import filecmp
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO / "scripts"))

from tree import assemble  # noqa: E402
from tree.say import Failure, report, run, step  # noqa: E402

AREAS = {
    "qapi": "qapi: the management interface of COLO",
    "include": "include: what QEMU sees of COLO",
    "block": "block: replication driver",
    "net": "net/colo: the COLO proxy",
    "migration": "migration/colo: the checkpoint engine",
    "tests": "tests: unit tests, qtests, fuzzers and benchmarks of COLO",
    "docs": "docs: COLO",
}
BODY = {
    "remove": "It is replaced by the one that follows.",
    "area": "Part of a COLO subsystem that replaces the one of QEMU 10.0.",
}


def identity():
    def get(key, default):
        done = subprocess.run(["git", "config", key], cwd=REPO, text=True,
                              capture_output=True, check=False)
        return done.stdout.strip() or default

    return (get("user.name", "qemu-colo"),
            get("user.email", "qemu-colo@localhost"))


class Tree:
    """A git tree that grows by the series."""

    def __init__(self, folder):
        self.folder = folder
        name, email = identity()
        self.sign = f"Signed-off-by: {name} <{email}>"
        self.env = dict(os.environ, GIT_AUTHOR_NAME=name,
                        GIT_AUTHOR_EMAIL=email, GIT_COMMITTER_NAME=name,
                        GIT_COMMITTER_EMAIL=email)

    def git(self, *args):
        return run(["git", "-c", "core.autocrlf=false", *args], "git",
                   "read its output above", cwd=self.folder, env=self.env)

    def commit(self, subject, body):
        self.git("add", "-A", "-f")
        self.git("commit", "-q", "--allow-empty", "-m",
                 f"{subject}\n\n{body}\n\n{self.sign}")


def message(path):
    """Subject and body in the head of a hook patch."""
    head = path.read_text(encoding="utf-8").split("\ndiff --git ")[0]
    subject, _, body = head.partition("\n\n")
    subject = re.sub(r"^Subject: (\[PATCH[^]]*\] )?", "", subject)
    return subject.replace("\n", " "), body.strip()


def area_of(name):
    top = name.split("/")[0]
    return top if top in AREAS else "block" if name == "replication.c" \
        else "docs"


def grow(tree, pristine):
    folder = tree.folder
    assemble.copy_pristine(pristine, folder)
    tree.git("init", "-q", "-b", "series")
    # bytes for fuzzers, some of which git would take for text
    (folder / ".git/info/attributes").write_text(
        "tests/fuzz/corpus/** binary\n", encoding="utf-8")
    tree.commit("pristine", "pristine")
    tree.git("tag", "pristine")
    assemble.remove(folder, REPO)
    tree.commit("colo: remove the implementation of QEMU 10.0",
                BODY["remove"])
    ours = assemble.our_files(REPO)
    for area, subject in AREAS.items():
        names = [n for n in ours if area_of(n) == area]
        for name in names:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPO / name, target)
        if names:
            tree.commit(subject, BODY["area"])
    for name in assemble.series(REPO):
        assemble.apply_patch(folder, REPO / "patches" / name)
        tree.commit(*message(REPO / "patches" / name))


def files_below(folder):
    found = set()
    for base, dirs, names in os.walk(folder):
        if Path(base) == folder:
            dirs[:] = [d for d in dirs if d not in assemble.LEFT_OUT and
                       d not in ("build", ".git")]
        found.update(os.path.relpath(os.path.join(base, n), folder)
                     for n in names)
    return found


def differences(one, other):
    a, b = files_below(one), files_below(other)
    found = [f"only in one tree: {n}" for n in sorted(a ^ b)]
    for name in sorted(a & b):
        x, y = one / name, other / name
        if x.is_symlink() and not x.exists() or \
                y.is_symlink() and not y.exists():
            continue
        if x.is_file() and not filecmp.cmp(x, y, shallow=False):
            found.append(f"differs: {name}")
    return [f for f in found if "__pycache__" not in f and
            not f.endswith(("series.orig", ".git"))]


def check(tree, pristine, assembled, out):
    step("applying the series to the pristine tree")
    with tempfile.TemporaryDirectory(dir=out.parent) as temp:
        again = Tree(Path(temp) / "tree")
        assemble.copy_pristine(pristine, again.folder)
        again.git("init", "-q", "-b", "again")
        again.commit("pristine", "pristine")
        again.git("am", "-q", "--keep-cr", "--whitespace=nowarn",
                  *[str(p) for p in sorted(out.glob("*.patch"))])
        found = differences(again.folder, assembled)
    if found:
        raise Failure("the series does not give the assembled tree:\n  "
                      + "\n  ".join(found[:20]),
                      "look at what scripts/series.py leaves out")
    step("checkpatch")
    done = subprocess.run(
        [str(pristine / "scripts/checkpatch.pl"), "--terse", "--no-summary",
         *[str(p) for p in sorted(out.glob("*.patch"))]],
        cwd=assembled, capture_output=True, text=True, check=False)
    errors = [l for l in done.stdout.splitlines() if "ERROR" in l]
    if errors:
        raise Failure("checkpatch found errors:\n  " + "\n  ".join(errors),
                      "mend the files they name")


def export(build):
    build = Path(build).resolve()
    pristine = Path((build / "pristine").read_text(encoding="utf-8"))
    out = build / "series"
    shutil.rmtree(out, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=build) as temp:
        tree = Tree(Path(temp) / "tree")
        step("making the series")
        grow(tree, pristine)
        tree.git("format-patch", "-q", "--no-signature", "-N", "-o",
                 str(out), "pristine..series")
    check(tree, pristine, build / "tree", out)
    count = len(list(out.glob("*.patch")))
    step(f"{count} patches in {out}, apply with git am to QEMU 10.0")


if __name__ == "__main__":
    try:
        export(sys.argv[1])
    except Failure as failure:
        report(failure)
        sys.exit(1)
