"""./configure: find QEMU, assemble the tree, configure both builds.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import argparse
import json
import os
import shutil
from pathlib import Path

from . import assemble, fetch, packages
from .say import Failure, report, run, step

REPO = Path(__file__).resolve().parent.parent.parent

QEMU_OPTIONS = """--target-list=x86_64-softmmu --without-default-features
    --disable-download --disable-install-blobs --enable-system --enable-tcg
    --enable-kvm --enable-replication --enable-colo-proxy --enable-slirp
    --enable-tools --enable-vhost-net --enable-malloc=system --enable-pixman
    --enable-gnutls""".split()

FIRMWARE = ("/usr/share/qemu", "/usr/share/seabios", "/usr/lib/ipxe/qemu")


def parse(argv):
    ours, theirs = argv, []
    if "--" in argv:
        at = argv.index("--")
        ours, theirs = argv[:at], argv[at + 1:]
    parser = argparse.ArgumentParser(
        prog="configure", description="Assemble QEMU with this COLO "
        "subsystem and configure the build.",
        epilog="Options after -- go to QEMU's own configure.")
    parser.add_argument("--qemu-source", metavar="DIR|TARBALL",
                        help="a QEMU 10.0 tree or tarball, instead of "
                        "Debian's source package")
    parser.add_argument("--build", default="build", metavar="DIR",
                        help="the build folder (default: %(default)s)")
    parser.add_argument("--packages-only", action="store_true",
                        help="install what the build and tests need, and "
                        "stop")
    args = parser.parse_args(ours)
    return args, theirs


def link_firmware(build):
    """QEMU run from its build folder looks for firmware only in there."""
    target = build / "qemu-bundle/usr/local/share/qemu-firmware"
    target.mkdir(parents=True, exist_ok=True)
    for folder in FIRMWARE:
        for path in sorted(Path(folder).glob("*")):
            link = target / path.name
            if path.is_file() and not link.exists():
                link.unlink(missing_ok=True)
                link.symlink_to(path)


def qemu_options(extra):
    compiler = []
    if shutil.which("ccache") and not any(o.startswith("--cc=")
                                          for o in extra):
        compiler = ["--cc=ccache gcc", "--host-cc=ccache gcc"]
    return ["--python=/usr/bin/python3", *QEMU_OPTIONS, *compiler, *extra]


def configure_with(tree, build, options):
    """Run QEMU's configure, unless it ran with the same options before."""
    stamp = build / "configured"
    want = json.dumps([str(tree), options])
    if stamp.exists() and (build / "build.ninja").exists() and \
            stamp.read_text(encoding="utf-8") == want:
        return
    usual = qemu_options([])
    step(" ".join(["configuring QEMU",
                   *(o for o in options if o not in usual)]))
    shutil.rmtree(build, ignore_errors=True)
    build.mkdir(parents=True)
    run([str(tree / "configure"), *options], "QEMU's configure",
        "look into qemu/meson-logs/meson-log.txt in the build folder, and "
        "check the options after --", cwd=build)
    stamp.write_text(want, encoding="utf-8")


def configure_outer(build):
    if (build / "build.ninja").exists():
        return
    step("configuring the outer build")
    run(["meson", "setup", str(build), str(REPO)], "meson setup",
        "read its output above")


def configure(argv):
    args, extra = parse(argv)
    cache = fetch.cache_dir()
    packages.ensure(cache)
    if args.packages_only:
        return
    build = Path(args.build).resolve()
    if build == REPO:
        raise Failure("--build names the source folder",
                      "give the build a folder of its own")
    build.mkdir(parents=True, exist_ok=True)
    pristine, version = fetch.pristine(args.qemu_source, cache)
    tree, _ = assemble.assemble(pristine, version, REPO, build)
    configure_with(tree, build / "qemu", qemu_options(extra))
    link_firmware(build / "qemu")
    (build / "pristine").write_text(str(pristine), encoding="utf-8")
    configure_outer(build)
    step(f"ready: run ninja -C {os.path.relpath(build)}")


def main(argv):
    try:
        configure(argv)
    except Failure as failure:
        report(failure)
        return 1
    except OSError as err:
        report(Failure(err, "make room, or let this user write there; "
                       "another build folder is given by --build= (make "
                       "BUILD=), another cache by XDG_CACHE_HOME"))
        return 1
    except KeyboardInterrupt:
        return 130
    return 0
