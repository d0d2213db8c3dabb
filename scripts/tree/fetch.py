"""The pristine QEMU tree: from Debian, or from where the user says.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import os
import re
import shutil
import tarfile
from pathlib import Path

from . import packages
from .say import Failure, run, step

SERIES = "10.0"


def cache_dir():
    base = os.environ.get("XDG_CACHE_HOME") or \
        os.path.expanduser("~/.cache")
    cache = Path(base) / "qemu-colo"
    cache.mkdir(parents=True, exist_ok=True)
    return cache


def check_version(tree, given=None):
    """The version of TREE, which came from what was GIVEN."""
    given = given or tree
    try:
        version = (tree / "VERSION").read_text(encoding="utf-8").strip()
    except OSError:
        version = None
    if not version or not (tree / "qapi/migration.json").exists():
        raise Failure(f"{given} is not a QEMU source tree",
                      "name a folder or tarball of QEMU "
                      f"{SERIES} with --qemu-source=")
    if not re.match(re.escape(SERIES) + r"\.\d+$", version):
        raise Failure(f"{given} is QEMU {version}, but this works on the "
                      f"{SERIES} series only",
                      f"give --qemu-source= a tree of QEMU {SERIES}.x")
    return version


def unpack_into(cache, name, unpack):
    """Fill CACHE/NAME by UNPACK(folder), whole or not at all."""
    tree = cache / name
    if tree.exists():
        return tree
    partial = cache / f"{name}.partial.{os.getpid()}"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        unpack(partial)
        partial.rename(tree)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return tree


def from_tarball(path, cache):
    def unpack(folder):
        step(f"unpacking {path}")
        folder.mkdir()
        try:
            with tarfile.open(path) as tar:
                # newer Pythons want to hear that the paths are not trusted
                if hasattr(tarfile, "tar_filter"):
                    tar.extraction_filter = staticmethod(tarfile.tar_filter)
                tar.extractall(folder)
        except (tarfile.TarError, OSError, EOFError) as err:
            raise Failure(f"{path} can't be unpacked: {err}",
                          "give --qemu-source= a complete tarball") from err
        inner = list(folder.iterdir())
        if len(inner) == 1 and inner[0].is_dir():
            for entry in inner[0].iterdir():
                entry.rename(folder / entry.name)
            inner[0].rmdir()
        check_version(folder, path)

    stat = path.stat()
    name = re.sub(r"\.tar.*$", "", path.name)
    # not "qemu-…": that is what a run without --qemu-source takes
    return unpack_into(cache, f"tarball-{name}-{stat.st_size}-"
                       f"{int(stat.st_mtime)}", unpack)


def from_debian(cache):
    have = sorted(cache.glob(f"qemu-{SERIES}.*"),
                  key=lambda p: [int(n) for n in re.findall(r"\d+", p.name)])
    have = [p for p in have if ".partial." not in p.name]
    if have:
        return have[-1]
    if not shutil.which("apt-get") or not shutil.which("dpkg-source"):
        raise Failure("QEMU's source comes from Debian, by apt-get and "
                      "dpkg-source, which this machine does not have",
                      "give a QEMU 10.0 tree or tarball with --qemu-source=")
    step("fetching QEMU's source package from Debian 13 (trixie)")
    options = packages.apt_options(cache)
    todo = ("check the network and the Debian mirror in this machine's apt "
            "sources, or give a tree or tarball with --qemu-source=")
    folder = cache / "source"
    folder.mkdir(exist_ok=True)
    run(["apt-get", *options, "update"], "apt-get update", todo)
    run(["apt-get", *options, "source", "--download-only", "qemu"],
        "apt-get source qemu", todo, cwd=folder)
    dscs = sorted(folder.glob(f"qemu_{SERIES}.*.dsc"),
                  key=lambda p: [int(n) for n in re.findall(r"\d+", p.name)])
    if not dscs:
        raise Failure(f"Debian no longer has QEMU {SERIES} in trixie",
                      "give a tree or tarball with --qemu-source=")
    version = re.match(r"qemu_([^-]+)", dscs[-1].name).group(1)

    def unpack(partial):
        step(f"verifying and unpacking QEMU {version}")
        run(["dpkg-source", "-x", str(dscs[-1]), str(partial)],
            "dpkg-source", todo)

    return unpack_into(cache, f"qemu-{version}", unpack)


def pristine(source, cache):
    """The pristine tree: SOURCE (folder or tarball), or Debian's."""
    if source:
        path = Path(source).resolve()
        if path.is_file():
            tree = from_tarball(path, cache)
        elif path.is_dir():
            tree = path
        else:
            raise Failure(f"--qemu-source={source}: no such file or folder",
                          "name a QEMU tree or tarball")
    else:
        tree = from_debian(cache)
    return tree, check_version(tree)
