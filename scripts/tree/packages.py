"""Debian packages: what is missing, and how it gets here.

The machine's own apt configuration is read, never changed: what is not in
it (the trixie sources, meson of bookworm-backports) is reached through a
private source list and private apt directories below the cache.

SPDX-License-Identifier: GPL-2.0-or-later
"""

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
    debian-archive-keyring libvirt-daemon libvirt-daemon-driver-qemu
    libvirt-clients""".split()

# What is looked for where there is no dpkg; QEMU's configure says which
# libraries it misses.
COMMANDS = "gcc ninja pkg-config flex bison patch git".split()

SUITES = "bookworm trixie forky sid oldstable stable testing unstable".split()


def not_installed(packages):
    """Those of PACKAGES that are not."""
    done = subprocess.run(["dpkg-query", "-W", "-f",
                           "${db:Status-Abbrev} ${Package}\n", *packages],
                          capture_output=True, text=True, check=False)
    have = {line.split()[-1] for line in done.stdout.splitlines()
            if line.startswith("ii")}
    return [p for p in packages if p not in have]


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


def sources():
    """[(address, suite, component)] of what this machine's apt uses."""
    # apt itself reads its configuration best; this works before any update
    command = ["apt-get", "indextargets", "--no-release-info", "--format",
               "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages"]
    try:
        out = subprocess.run(command, capture_output=True, text=True,
                             check=False).stdout
    except FileNotFoundError:
        return []
    lines = [line.split() for line in out.splitlines()]
    return [(l[0].rstrip("/"), l[1], l[2]) for l in lines if len(l) == 3]


def mirrors():
    """(archive, security): the addresses this machine's apt uses."""
    def first(suites):
        found = [uri for uri, suite, component in sources()
                 if suite in suites and component == "main"
                 and not uri.startswith("cdrom:")]
        # others name their suites like Debian's, but not their folders
        return next((u for u in found if "/debian" in u),
                    found[0] if found else None)

    archive = first(SUITES)
    if not archive:
        raise Failure("this machine's apt configuration names no Debian "
                      "mirror",
                      "add one to /etc/apt/sources.list, for example\n"
                      "    deb http://deb.debian.org/debian trixie main\n"
                      "  or point configure at a QEMU 10.0 tree or tarball "
                      "with --qemu-source=")
    return archive, first([s + e for s in SUITES
                           for e in ("-security", "/updates")])


def apt_options(cache):
    """Options that keep apt inside CACHE, with a source list of ours."""
    base = cache / "apt"
    archive, security = mirrors()
    for sub in ("lists/partial", "cache/archives/partial"):
        (base / sub).mkdir(parents=True, exist_ok=True)
    signed = f"[signed-by={KEYRING}]"
    lines = [f"deb-src {signed} {archive} trixie main"]
    if security:
        lines.append(f"deb-src {signed} {security} trixie-security main")
    if debian_version() == 12:
        lines.append(f"deb {signed} {archive} bookworm-backports main")
    sources_list = base / "sources.list"
    sources_list.write_text("\n".join(lines) + "\n", encoding="utf-8")
    options = ["-o", f"Dir::Etc::sourcelist={sources_list}",
               "-o", "Dir::Etc::sourceparts=-",
               "-o", f"Dir::State::Lists={base}/lists",
               "-o", f"Dir::Cache={base}/cache",
               # without the mode, an update that got nothing is a success
               "-o", "APT::Update::Error-Mode=any",
               "-o", "Acquire::Retries=3"]
    if os.geteuid() == 0:
        options += ["-o", "APT::Sandbox::User=root"]
    return options


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
    first = subprocess.run(command, env=env, stdin=subprocess.DEVNULL,
                           stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL, check=False)
    if first.returncode:
        run(["apt-get", "update"], "apt-get update", todo, env=env)
        run(command, "apt-get install", todo, env=env)


def install_meson(cache):
    """QEMU 10.0 needs meson 1.5; Debian 12 has it in backports."""
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


def refuse(missing, meson):
    """Only root can install; say everything that is missing at once."""
    what, todo = [], []
    if missing:
        what.append("these packages are missing: " + " ".join(missing))
        todo.append("apt-get install --no-install-recommends "
                    + " ".join(missing))
    if meson:
        what.append("meson 1.5 or newer is missing")
        todo.append("apt-get install meson/bookworm-backports, with "
                    "bookworm-backports in the apt sources"
                    if debian_version() == 12 else "apt-get install meson")
    raise Failure(", and ".join(what) + ", and only root can install them",
                  "run as root, in this folder: ./configure --packages-only\n"
                  "  which does: " + "\n              ".join(todo))


def install(packages):
    """PACKAGES are installed, or a Failure says who can do it.

    Where there is no dpkg nothing is done: what uses them will tell.
    """
    if not shutil.which("dpkg-query"):
        return
    missing = not_installed(packages)
    if missing and os.geteuid():
        raise Failure("these packages are missing, and only root can install "
                      "them: " + " ".join(missing),
                      "run as root: apt-get install --no-install-recommends "
                      + " ".join(missing))
    if missing:
        step(f"installing packages: {' '.join(missing)}")
        apt_install(missing)


def ensure(cache):
    """What building and testing need is installed, or a Failure says how."""
    meson = meson_version() < MESON_MIN
    if not shutil.which("dpkg-query") or not shutil.which("apt-get"):
        missing = [c for c in COMMANDS if not shutil.which(c)]
        missing += ["meson (1.5 or newer)"] if meson else []
        if missing:
            raise Failure("these commands are missing: " + ", ".join(missing),
                          "install them; only on Debian is that automated")
        return
    missing = not_installed(BUILD + TEST)
    if (missing or meson) and os.geteuid():
        refuse(missing, meson)
    install(BUILD + TEST)
    if meson:
        install_meson(cache)
