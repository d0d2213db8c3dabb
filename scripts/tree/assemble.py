"""Put the tree together: pristine QEMU, minus the stock implementation,
plus the hooks in patches/, plus this repository's files as links.

A tree is built in a folder beside its place and renamed when it is whole,
and an old one is first taken away, so that nothing ever builds on half of
one, nor, when the new one can't be made, on one of hooks and files that do
not belong together.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import filecmp
import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

from . import cut
from .say import Failure, step

# What of this repository belongs into a QEMU tree, at the same path.
OURS = ("block", "contrib", "docs", "include", "migration", "net", "qapi",
        "replication.c", "tests/bench/colo", "tests/fuzz", "tests/qtest",
        "tests/unit")
LEFT_OUT = (".pc", ".git", "debian")


def our_files(repo):
    files = []
    for top in OURS:
        path = repo / top
        if path.is_file():
            files.append(top)
        for folder, dirs, names in os.walk(path):
            dirs[:] = sorted(d for d in dirs if d != "__pycache__")
            files += [os.path.relpath(os.path.join(folder, n), repo)
                      for n in sorted(names) if not n.startswith(".")
                      and not n.endswith(("~", ".pyc", ".orig", ".rej"))]
    return files


def series(repo):
    lines = (repo / "patches/series").read_text(encoding="utf-8").split("\n")
    return [l.strip() for l in lines if l.strip() and not l.startswith("#")]


def removals(repo):
    """[(kind, path, name)] of patches/removals."""
    found = []
    text = (repo / "patches/removals").read_text(encoding="utf-8")
    for number, line in enumerate(text.split("\n"), 1):
        words = line.split("#")[0].split()
        if not words:
            continue
        if words[0] == "file" and len(words) == 2:
            found.append(("file", words[1], None))
        elif words[0] in ("function", "declaration") and len(words) == 3:
            found.append(tuple(words))
        else:
            raise Failure(f"patches/removals:{number}: can't read '{line}'",
                          "write: file PATH, function PATH NAME or "
                          "declaration PATH NAME")
    return found


def fingerprint(repo, pristine, version):
    """What the assembled tree depends on, but for our files' contents."""
    digest = hashlib.sha256()
    digest.update(f"{pristine} {version}\n".encode())
    for name in our_files(repo):
        digest.update(f"{name}\n".encode())
    for path in [repo / "patches/series", repo / "patches/removals",
                 *(repo / "patches" / p for p in series(repo)),
                 *sorted((repo / "scripts/tree").glob("*.py"))]:
        try:
            digest.update(path.read_bytes())
        except OSError as err:
            raise Failure(f"{path} can't be read: {err.strerror}",
                          "correct patches/series") from err
    return digest.hexdigest()


def copy_pristine(pristine, tree):
    """Hard links where the file system allows it, else copies."""
    def link(source, target):
        try:
            os.link(source, target)
        except OSError:
            shutil.copy2(source, target)

    def skip(folder, names):
        if Path(folder) == pristine:
            return [n for n in names if n in LEFT_OUT or n == "build"]
        return []

    shutil.copytree(pristine, tree, symlinks=True, ignore=skip,
                    copy_function=link)


def rewrite(path, text):
    """Replace the file, never write through a hard link."""
    mode = path.stat().st_mode
    path.unlink()
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)


def remove(tree, repo):
    for kind, path, name in removals(repo):
        target = tree / path
        if not target.exists():
            raise Failure(f"{path}, named in patches/removals, is not in "
                          "this QEMU", cut.TODO)
        if kind == "file":
            target.unlink()
        else:
            edit = cut.function if kind == "function" else cut.declaration
            rewrite(target, edit(target.read_text(encoding="utf-8"), name,
                                 path))


def apply_patch(tree, path):
    try:
        done = subprocess.run(
            ["patch", "-p1", "--batch", "--forward", "--fuzz=1", "--quiet",
             "--no-backup-if-mismatch",
             "--reject-file=-", "-i", str(path)],
            cwd=tree, capture_output=True, text=True, check=False)
    except FileNotFoundError as err:
        raise Failure("the command patch is not installed",
                      "install the package patch") from err
    if done.returncode:
        raise Failure(f"{path.parent.name}/{path.name} does not apply:\n"
                      + (done.stdout + done.stderr).strip(),
                      "this QEMU differs from the one the patch was made "
                      "for: use a 10.0 release it is known to work with, "
                      "or refresh the patch")


def patched_files(repo):
    names = set()
    for name in series(repo):
        text = (repo / "patches" / name).read_text(encoding="utf-8")
        names.update(re.findall(r"^\+\+\+ b/(\S+)", text, re.M))
    names.update(p for kind, p, _ in removals(repo) if kind != "file")
    return names


def keep_times(old, new, names):
    """What came out as before keeps its time, so ninja has less to do."""
    for name in names:
        was, now = old / name, new / name
        if was.is_file() and now.is_file() and \
                filecmp.cmp(was, now, shallow=False):
            stat = was.stat()
            os.utime(now, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def date_changes(old, new):
    """What is no longer as it was is newer than what was built from it.

    Files of the pristine tree have its times. One that was edited in the old
    tree has been compiled later than that: it would never be compiled again.
    """
    for folder, _, names in os.walk(old):
        for name in names:
            was = Path(folder, name)
            now = new / was.relative_to(old)
            if was.is_symlink() or now.is_symlink() or not now.is_file() or \
                    was.samefile(now) or filecmp.cmp(was, now, shallow=False):
                continue
            rewritten = now.with_name(name + ".new")
            shutil.copy(now, rewritten)
            rewritten.replace(now)


def link_ours(tree, repo, as_copies=False):
    for name in our_files(repo):
        target = tree / name
        if target.exists() or target.is_symlink():
            raise Failure(f"{name} is in QEMU too",
                          "name it in patches/removals, or patch it")
        target.parent.mkdir(parents=True, exist_ok=True)
        if as_copies:
            shutil.copy2(repo / name, target)
        else:
            target.symlink_to(repo / name)


def build(pristine, repo, tree, as_copies=False):
    """Assemble into TREE, which must not exist."""
    copy_pristine(pristine, tree)
    remove(tree, repo)
    for name in series(repo):
        apply_patch(tree, repo / "patches" / name)
    link_ours(tree, repo, as_copies)


def renewed(folder, want, make):
    """FOLDER/tree, made anew by MAKE(new, old) unless its stamp says WANT.

    While it can't be made there is none: the old one waits as tree.old, for
    the times of its files.  Returns the tree and whether it was made anew.
    """
    tree, stamp = folder / "tree", folder / "tree.stamp"
    if tree.exists() and stamp.exists() and \
            stamp.read_text(encoding="utf-8") == want:
        return tree, False
    new, old = folder / "tree.new", folder / "tree.old"
    shutil.rmtree(new, ignore_errors=True)
    stamp.unlink(missing_ok=True)
    if tree.exists():
        shutil.rmtree(old, ignore_errors=True)
        tree.rename(old)
    try:
        make(new, old)
        date_changes(old, new)
        new.rename(tree)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    stamp.write_text(want, encoding="utf-8")
    shutil.rmtree(old, ignore_errors=True)
    return tree, True


def assemble(pristine, version, repo, folder):
    """FOLDER/tree, made anew only when something it depends on changed."""
    def make(new, old):
        step(f"assembling the tree from QEMU {version}")
        build(pristine, repo, new)
        keep_times(old, new, patched_files(repo))

    return renewed(folder, fingerprint(repo, pristine, version), make)
