"""Debian packages: what is missing, and how it gets here.

The machine's own apt configuration is read, never changed: what is not in
it (the trixie sources, meson of bookworm-backports) is reached through a
private source list and private apt directories below the cache.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import glob
import os
import re
import shutil
import subprocess
from pathlib import Path

from .say import Failure, run, step

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
MESON_MIN = (1, 5)

BUILD = """gcc libc6-dev ninja-build libglib2.0-dev libpixman-1-dev
    libslirp-dev libnbd-dev zlib1g-dev libgnutls28-dev python3 python3-venv
    flex bison pkg-config ca-certificates dpkg-dev patch xz-utils git
    seabios ipxe-qemu qemu-system-data""".split()

TEST = """iproute2 busybox-static cpio e2fsprogs kmod perl python3-libnbd
    debian-archive-keyring""".split()


def installed(package):
    done = subprocess.run(["dpkg-query", "-W", "-f", "${db:Status-Abbrev}",
                           package], capture_output=True, text=True,
                          check=False)
    return done.returncode == 0 and done.stdout.startswith("ii")


def meson_version():
    if not shutil.which("meson"):
        return (0,)
    text = subprocess.run(["meson", "--version"], capture_output=True,
                          text=True, check=False).stdout
    return tuple(int(n) for n in re.findall(r"\d+", text)[:2]) or (0,)


def debian_version():
    try:
        text = Path("/etc/os-release").read_text(encoding="utf-8")
    except OSError:
        return 0
    match = re.search(r'^VERSION_ID="?(\d+)', text, re.M)
    return int(match.group(1)) if match and "debian" in text else 0


def mirrors():
    """(archive, security): the addresses this machine's apt uses."""
    archive = security = None
    for path in ["/etc/apt/sources.list",
                 *sorted(glob.glob("/etc/apt/sources.list.d/*"))]:
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        text = re.sub(r"^\s*#.*$", "", text, flags=re.M)
        for uri in re.findall(r"\b(?:https?|file|copy|mirror\S*?):[^\s\]]+",
                              text):
            uri = uri.rstrip("/")
            if uri.endswith("debian-security"):
                security = security or uri
            elif uri.endswith("/debian"):
                archive = archive or uri
    if not archive:
        raise Failure("this machine's apt configuration names no Debian "
                      "mirror",
                      "add one to /etc/apt/sources.list, or point configure "
                      "at a QEMU 10.0 tree or tarball with --qemu-source=")
    return archive, security


def apt_options(cache):
    """Options that keep apt inside CACHE, with a source list of ours."""
    base = cache / "apt"
    for sub in ("lists/partial", "cache/archives/partial"):
        (base / sub).mkdir(parents=True, exist_ok=True)
    archive, security = mirrors()
    signed = f"[signed-by={KEYRING}]"
    lines = [f"deb-src {signed} {archive} trixie main"]
    if security:
        lines.append(f"deb-src {signed} {security} trixie-security main")
    if debian_version() == 12:
        lines.append(f"deb {signed} {archive} bookworm-backports main")
    sources = base / "sources.list"
    sources.write_text("\n".join(lines) + "\n", encoding="utf-8")
    options = ["-o", f"Dir::Etc::sourcelist={sources}",
               "-o", "Dir::Etc::sourceparts=-",
               "-o", f"Dir::State::Lists={base}/lists",
               "-o", f"Dir::Cache={base}/cache",
               # without the mode, an update that got nothing is a success
               "-o", "APT::Update::Error-Mode=any",
               "-o", "Acquire::Retries=3"]
    if os.geteuid() == 0:
        options += ["-o", "APT::Sandbox::User=root"]
    return options


def need_root(missing):
    if os.geteuid():
        raise Failure("these packages are missing, and only root can "
                      "install them: " + " ".join(missing),
                      "run as root: apt-get install " + " ".join(missing))


def apt_install(packages):
    env = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    todo = "check the network and the machine's apt sources, then run again"
    command = ["apt-get", "install", "-y", "--no-install-recommends",
               *packages]
    known = subprocess.run(["apt-cache", "show", "--no-all-versions",
                            *packages], stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL, check=False)
    if known.returncode:
        run(["apt-get", "update"], "apt-get update", todo, env=env)
    first = subprocess.run(command, env=env, stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL, check=False)
    if first.returncode:
        run(["apt-get", "update"], "apt-get update", todo, env=env)
        run(command, "apt-get install", todo, env=env)


def ensure(packages, purpose):
    missing = [p for p in packages if not installed(p)]
    if not missing:
        return
    if not shutil.which("apt-get"):
        raise Failure(f"packages for {purpose} are missing: "
                      + " ".join(missing),
                      "install their equivalents; only Debian is automated")
    need_root(missing)
    step(f"installing packages for {purpose}: {' '.join(missing)}")
    apt_install(missing)


def ensure_meson(cache):
    """QEMU 10.0 needs meson 1.5; Debian 12 has it in backports."""
    if meson_version() >= MESON_MIN:
        return
    need_root(["meson"])
    if debian_version() != 12:
        step("installing meson")
        apt_install(["meson"])
    else:
        step("installing meson from bookworm-backports")
        options = apt_options(cache)
        todo = "check the network, or install meson 1.5 or newer by hand"
        folder = cache / "debs"
        folder.mkdir(parents=True, exist_ok=True)
        run(["apt-get", *options, "update"], "apt-get update", todo)
        run(["apt-get", *options, "download", "meson/bookworm-backports"],
            "downloading meson", todo, cwd=folder)
        deb = sorted(folder.glob("meson_*.deb"))[-1]
        apt_install([str(deb)])
    if meson_version() < MESON_MIN:
        raise Failure("meson is still older than 1.5",
                      "install meson 1.5 or newer and put it first in PATH")
