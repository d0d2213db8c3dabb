#!/usr/bin/env python3
"""How ./configure fails, and how test results are counted.

A small tree stands for QEMU, programs in a folder of their own for Debian's:
no network, no compiler. Prints TAP; arguments select cases by their names.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import traceback
from pathlib import Path
from unittest import mock

REPO = Path(__file__).resolve().parent.parent.parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(REPO / "scripts"))

import check  # noqa: E402
import sanitizer  # noqa: E402
from tree import assemble, cut, fetch, packages  # noqa: E402
from tree.say import Failure  # noqa: E402

STOCK_C = """\
#include "qemu/osdep.h"

int kept;

/*
 * what goes
 */
static int
gone(int a,
     int b)
{
    if (a) {
        return b;
    }
    return a;
}

int stays(void)
{
    return gone(1, 2);
}
"""

HUNK = """\
Subject: [PATCH] hook: return another number

diff --git a/migration/stock.c b/migration/stock.c
--- a/migration/stock.c
+++ b/migration/stock.c
@@ -4,5 +4,5 @@

 int stays(void)
 {
-    return gone(1, 2);
+    return 3;
 }
"""


def write(path, text, mode=0o644):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


def make_qemu(folder, version="10.0.3"):
    write(folder / "VERSION", version + "\n")
    write(folder / "qapi/migration.json", "{}\n")
    write(folder / "migration/stock.c", STOCK_C)
    write(folder / "migration/stock.h", "int gone(int a,\n         int b);\n"
          "int stays(void);\n")
    write(folder / "net/old.c", "/* old */\n")
    return folder


def make_repo(folder):
    write(folder / "patches/removals",
          "# comment\nfile net/old.c\nfunction migration/stock.c gone\n"
          "declaration migration/stock.h gone\n")
    write(folder / "patches/series", "# comment\nhook.patch\n")
    write(folder / "patches/hook.patch", HUNK)
    write(folder / "migration/colo/ours.c", "/* ours */\n")
    (folder / "scripts/tree").mkdir(parents=True)
    return folder


def snapshot(folder):
    return {str(p.relative_to(folder)): p.read_bytes()
            for p in folder.rglob("*") if p.is_file()}


class Case:
    """Folders for one case"""

    def __init__(self, top):
        self.top = top
        self.qemu = make_qemu(top / "qemu")
        self.repo = make_repo(top / "repo")
        self.build = top / "build"
        self.cache = top / "cache"
        self.build.mkdir()
        self.cache.mkdir()

    def assemble(self):
        return assemble.assemble(self.qemu, "10.0.3", self.repo, self.build)

    def left(self):
        return sorted(p.name for p in self.build.iterdir())

    def programs(self, **scripts):
        """A folder with nothing in it but what a shell needs, and SCRIPTS."""
        folder = self.top / "bin"
        for name in ("sh", "env", "python3", "cat"):
            write(folder / name, f'#!/bin/sh\nexec {shutil.which(name)} '
                  '"$@"\n', 0o755)
        for name, body in scripts.items():
            write(folder / name.replace("_", "-"), "#!/bin/sh\n" + body,
                  0o755)
        return str(folder)

    def configure(self, path, *args):
        """Run ./configure with PATH; (status, what it said)."""
        env = dict(os.environ, PATH=path,
                   XDG_CACHE_HOME=str(self.top / "home-cache"))
        done = subprocess.run(
            [sys.executable, str(REPO / "configure"),
             f"--build={self.build}", *args], env=env, cwd=self.top,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            stdin=subprocess.DEVNULL, check=False, timeout=60)
        return done.returncode, done.stdout


def expect(condition, seen):
    if not condition:
        raise AssertionError(f"seen: {seen}")


def fails(words, function, *args):
    """FUNCTION ends in a Failure that has WORDS, and says what to do."""
    try:
        result = function(*args)
    except Failure as failure:
        text = str(failure)
        for word in [*words, "what to do: "]:
            expect(word in text, text)
        return text
    raise AssertionError(f"no failure, but {result}")


# Debian, as far as ./configure asks for it
INSTALLED = """\
shift 3
for p; do test "$p" = "$WITHOUT" || echo "ii  $p"; done
"""
MESON = "echo 1.7.0\n"


def tree_whole(case):
    before = snapshot(case.qemu)
    tree, anew = case.assemble()
    expect(anew and case.left() == ["tree", "tree.stamp"], case.left())
    text = (tree / "migration/stock.c").read_text(encoding="utf-8")
    expect("return 3" in text and "gone" not in text, text)
    expect("what goes" not in text and "int kept" in text, text)
    expect((tree / "migration/stock.h").read_text(encoding="utf-8")
           == "int stays(void);\n", "the header")
    expect(not (tree / "net/old.c").exists(), "net/old.c")
    expect((tree / "migration/colo/ours.c").is_symlink(), "no link")
    expect(snapshot(case.qemu) == before, "the pristine tree changed")
    expect(not case.assemble()[1], "made anew without need")


def tree_after_change(case):
    tree, _ = case.assemble()
    path = tree / "migration/stock.c"
    os.utime(path, ns=(10**18, 10**18))
    write(case.repo / "migration/colo/new.c", "/* new */\n")
    expect(case.assemble()[1], "not made anew for a new file")
    expect((tree / "migration/colo/new.c").exists(), "the new file")
    expect(path.stat().st_mtime_ns == 10**18, "an unchanged file's time")


def tree_after_edit(case):
    """An edit in the tree is gone, and what was built from it is outdated."""
    tree, _ = case.assemble()
    # one that neither a patch nor a removal writes anew
    path = tree / "qapi/migration.json"
    pristine = case.qemu / "qapi/migration.json"
    os.utime(pristine, ns=(10**18, 10**18))
    text = path.read_text(encoding="utf-8")
    path.unlink()
    write(path, text + "/* an experiment */\n")
    edited = path.stat().st_mtime_ns
    write(case.repo / "migration/colo/new.c", "/* new */\n")
    case.assemble()
    expect(path.read_text(encoding="utf-8") == text, "the experiment")
    expect(path.stat().st_mtime_ns >= edited, "older than the experiment")
    expect(pristine.stat().st_mtime_ns == 10**18, "a pristine file's time")


def hunk_that_fails(case):
    """No tree before or after builds; with the mended patch it is back."""
    case.assemble()
    path = case.build / "tree/migration/stock.c"
    os.utime(path, ns=(10**18, 10**18))
    write(case.repo / "patches/hook.patch", HUNK.replace("stays", "other"))
    for _ in range(2):
        fails(["patches/hook.patch does not apply", "refresh the patch"],
              case.assemble)
        expect(case.left() == ["tree.old"], case.left())
    write(case.repo / "patches/hook.patch", HUNK)
    case.assemble()
    expect(case.left() == ["tree", "tree.stamp"], case.left())
    expect(path.stat().st_mtime_ns == 10**18, "an unchanged file's time")


def build_without_configure(case):
    """ninja builds what was configured, or says what to do."""
    shutil.copytree(REPO / "scripts", case.repo / "scripts",
                    dirs_exist_ok=True)
    qemu = case.build / "qemu"
    write(case.build / "pristine", str(case.qemu))
    path = case.programs(ninja='test "$3" = -t || echo "built $3"\n')

    def build():
        done = subprocess.run(
            [sys.executable, str(case.repo / "scripts/build-qemu.py"),
             str(qemu), str(case.build / "stamp")],
            env=dict(os.environ, PATH=path), stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, check=False)
        expect(done.returncode == (0 if "built" in done.stdout else 1), done)
        expect("built" in done.stdout or "run ./configure" in done.stdout,
               done)
        return "built" in done.stdout

    expect(not build(), "a build of nothing")
    tree, _ = case.assemble()
    expect(not build(), "a build that was not configured")
    write(qemu / "configured", "")
    expect(build(), "no build of what is whole")
    write(case.repo / "migration/colo/ours.c", "/* changed */\n")
    expect(build(), "no build of a file of ours that changed")
    write(case.repo / "migration/colo/new.c", "/* new */\n")
    expect(not build(), "a build without the new file")
    case.assemble()
    expect(build(), "no build with the new file")
    write(case.repo / "patches/hook.patch", HUNK.replace("stays", "other"))
    expect(not build() and tree.exists(), "a build with old hooks")
    fails([], case.assemble)
    expect(not build(), "a build of nothing")
    (case.repo / "patches/hook.patch").unlink()
    expect(not build(), "a build without a hook")


def patch_not_there(case):
    write(case.repo / "patches/series", "nonesuch.patch\n")
    fails(["nonesuch.patch can't be read", "patches/series"], case.assemble)
    expect(case.left() == [], case.left())


def patch_not_installed(case):
    with mock.patch.dict(os.environ, PATH=case.programs()):
        fails(["command patch is not installed"], case.assemble)
    expect(case.left() == [], case.left())


def removal_of_what_is_not_there(case):
    for line, words in (
            ("file net/none.c", ["net/none.c"]),
            ("function migration/stock.c none", ["no function none"]),
            ("declaration migration/stock.h none", ["declaration of none"]),
            ("function migration/stock.c", ["removals:1", "can't read"])):
        write(case.repo / "patches/removals", line + "\n")
        fails(words, case.assemble)
        expect(case.left() == [], case.left())


def our_file_is_in_qemu(case):
    write(case.qemu / "migration/colo/ours.c", "/* theirs */\n")
    fails(["migration/colo/ours.c is in QEMU too"], case.assemble)
    expect(case.left() == [], case.left())


def cut_function(_case):
    for source in STOCK_C, STOCK_C.replace("static int\n", "static int "):
        text = cut.function(source, "gone", "x.c")
        expect(text == STOCK_C[:STOCK_C.index("/*\n")] +
               STOCK_C[STOCK_C.index("int stays"):], text)
    # the file ends within it
    fails(["x.c has no function gone"], cut.function,
          STOCK_C[:STOCK_C.index("    return a;")], "gone", "x.c")
    fails(["x.h has no declaration of gone"], cut.declaration,
          "int gone(int a,\n", "gone", "x.h")


def wrong_version(case):
    for version in "9.2.4", "10.1.0", "10.0.3-rc1":
        write(case.qemu / "VERSION", version + "\n")
        fails([f"is QEMU {version}", "10.0 series"], fetch.pristine,
              case.qemu, case.cache)
    write(case.qemu / "VERSION", "10.0.77\n")
    expect(fetch.pristine(case.qemu, case.cache)[1] == "10.0.77", "10.0.77")
    (case.qemu / "VERSION").unlink()
    fails(["is not a QEMU source tree"], fetch.pristine, case.qemu,
          case.cache)
    fails(["no such file or folder"], fetch.pristine, case.top / "none",
          case.cache)


def pack(case, version="10.0.3"):
    path = case.top / "qemu-10.0.3.tar.xz"
    write(case.qemu / "VERSION", version + "\n")
    with tarfile.open(path, "w:xz") as tar:
        tar.add(case.qemu, "qemu-10.0.3")
    return path


def tarball(case):
    tree, version = fetch.pristine(pack(case), case.cache)
    expect(version == "10.0.3" and (tree / "migration/stock.c").exists(),
           version)
    # it is not what Debian has
    with mock.patch.object(packages, "sources", return_value=[]):
        fails(["names no Debian mirror"], fetch.pristine, None, case.cache)


def tarball_not_whole(case):
    path = pack(case)
    data = path.read_bytes()
    path.write_bytes(data[:len(data) // 2])
    fails(["can't be unpacked"], fetch.pristine, path, case.cache)
    path.write_bytes(b"no tarball")
    fails(["can't be unpacked"], fetch.pristine, path, case.cache)
    pack(case, "9.2.4")
    fails([str(path), "is QEMU 9.2.4"], fetch.pristine, path, case.cache)
    expect(not list(case.cache.iterdir()), list(case.cache.iterdir()))


def mirrors_of_apt(case):
    def mirrors(*lines):
        path = case.programs(apt_get="cat <<'EOF'\n" + "\n".join(lines)
                             + "\nEOF\n")
        with mock.patch.dict(os.environ, PATH=path):
            return packages.mirrors()

    cloud = "mirror+file:/etc/apt/mirrors/debian"
    expect(mirrors(f"{cloud}.list/ bookworm main",
                   f"{cloud}-security.list/ bookworm-security main")
           == (f"{cloud}.list", f"{cloud}-security.list"), "cloud image")
    expect(mirrors("https://tools.example/ trixie main",
                   "https://tools.example/linux/debian/ trixie stable",
                   "http://deb.debian.org/debian/ trixie-updates main",
                   "http://deb.debian.org/debian/ trixie main")
           == ("http://deb.debian.org/debian", None), "others beside it")
    expect(mirrors("http://mirror.example/d/ stable main")[0]
           == "http://mirror.example/d", "a folder of another name")
    fails(["names no Debian mirror", "--qemu-source="], mirrors,
          "cdrom:[Debian]/ trixie main", "http://u.example/ubuntu noble main")


def configure_without_mirror(case):
    status, text = case.configure(case.programs(
        dpkg_query=INSTALLED, dpkg_source="exit 1\n", apt_get="exit 0\n",
        meson=MESON))
    expect(status == 1 and "names no Debian mirror" in text and
           "what to do: " in text and "Traceback" not in text, text)
    expect(case.left() == [], case.left())


def configure_without_network(case):
    status, text = case.configure(case.programs(
        dpkg_query=INSTALLED, dpkg_source="exit 1\n", meson=MESON,
        apt_get='case "$*" in\n'
        "indextargets*) echo http://mirror.invalid/debian trixie main;;\n"
        "*) echo E: Temporary failure resolving; exit 100;;\nesac\n"))
    expect(status == 1 and "apt-get update failed" in text and
           "Temporary failure" in text and "--qemu-source=" in text, text)
    expect(case.left() == [], case.left())


def configure_with_wrong_version(case):
    write(case.qemu / "VERSION", "9.2.4\n")
    status, text = case.configure(
        case.programs(dpkg_query=INSTALLED, apt_get="", meson=MESON),
        f"--qemu-source={case.qemu}")
    expect(status == 1 and "is QEMU 9.2.4" in text and
           "what to do: " in text, text)
    expect(case.left() == [], case.left())


def configure_not_debian(case):
    status, text = case.configure(case.programs(gcc="", meson=MESON))
    expect(status == 1 and "these commands are missing: ninja, " in text and
           "what to do: " in text, text)


def configure_unwritable(case):
    """A file where the cache's folder would go."""
    write(case.top / "home-cache", "")
    status, text = case.configure(case.programs())
    expect(status == 1 and "home-cache" in text and
           "XDG_CACHE_HOME" in text and "Traceback" not in text, text)


def no_root_for_apt(case):
    path = case.programs(dpkg_query=INSTALLED, apt_get="",
                         meson="echo 1.0.1\n")
    with mock.patch.dict(os.environ, PATH=path, WITHOUT="flex"), \
            mock.patch.object(os, "geteuid", return_value=1000), \
            mock.patch.object(packages, "debian_version", return_value=12):
        text = fails(["packages are missing: flex", "meson 1.5",
                      "only root", "--packages-only",
                      "apt-get install --no-install-recommends flex\n",
                      "bookworm-backports"], packages.ensure, case.cache)
        expect("gcc" not in text, text)
        case.programs(meson=MESON)
        text = fails(["flex"], packages.ensure, case.cache)
        expect("meson" not in text, text)
    with mock.patch.dict(os.environ, PATH=path, WITHOUT=""), \
            mock.patch.object(os, "geteuid", return_value=1000):
        packages.ensure(case.cache)


def points_of_tap(_case):
    got = check.points("\n".join([
        "TAP version 13", "1..6", "# ok so far",
        "ok 1 /a/first", "ok 2 - second # SKIP no KVM",
        "    ok 1 a subtest's", "not ok 3 third",
        "ok 4 fourth # skip", "not ok 5 fifth # TODO later",
        "ok 6 with # in its name", "okay then",
        "OK: no acknowledged record is missing", "Bail out! gone"]))
    expect(got == [
        ("passed", "/a/first", ""), ("skipped", "- second", "no KVM"),
        ("failed", "third", ""), ("skipped", "fourth", ""),
        ("failed", "fifth", ""), ("passed", "with # in its name", "")], got)
    got = check.points("1..0 # SKIP not built\n")
    expect(got == [("skipped", "", "not built")], got)
    expect(check.points("1..0\n") == [], "an empty plan")


def counts(case):
    """A program that fails without a point is a failure of one."""
    log = case.top / "testlog.json"
    programs = [
        {"name": "a", "result": "OK", "stdout": "ok 1 x\nok 2 y # SKIP no z"},
        {"name": "b", "result": "FAIL", "stdout": "ok 1 x\nnot ok 2 y"},
        {"name": "c", "result": "TIMEOUT", "stdout": "ok 1 x"},
        {"name": "d", "result": "ERROR"},
        {"name": "e", "result": "OK", "stdout": "OK: all is right"},
        {"name": "f", "result": "SKIP", "stdout": ""}]
    write(log, "".join(json.dumps(p) + "\n" for p in programs))
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        totals = check.count(log)
    expect(totals == {"passed": 4, "failed": 3, "skipped": 2}, totals)
    for line in ("skipped: a: y no z", "failed: b: y", "failed: c: TIMEOUT",
                 "failed: d: ERROR"):
        expect(line in said.getvalue().splitlines(), said.getvalue())


RACE = """\
==================
WARNING: ThreadSanitizer: data race (pid=7)
  Write of size 8 at 0x7b08 by thread T1{one}:
    #0 memcpy ../../libsanitizer/tsan/tsan_interceptors.cc:1 (libtsan.so)
    #1 {function} {path}:12 (qemu-system-x86_64+0x1)
    #2 {caller} (qemu-system-x86_64+0x1)

  Previous atomic read of size 8 at 0x7b08 by main thread{other}:
    #0 poll ../tree/util/async.c:3 (qemu-system-x86_64+0x1)
    #1 {caller} (qemu-system-x86_64+0x1)

  Location is heap block of size 344 at 0x7b08 allocated by main thread:
    #0 calloc ../../libsanitizer/tsan/tsan_interceptors.cc:1 (libtsan.so)
    #1 g_malloc0 <null> (libglib-2.0.so.0+0x5)
    #2 {owner} (qemu-system-x86_64+0x1)
    #3 {caller} (qemu-system-x86_64+0x1)

SUMMARY: ThreadSanitizer: data race {path}:12 in {function}
==================
"""
ADDRESS = """\
=={pid}==ERROR: AddressSanitizer: heap-use-after-free on address 0x60
READ of size 1 at 0x60 thread T0
    #0 0x55d0 in {function} {path}:99:3
    #1 0x55d1 in main ../tree/system/main.c:1
"""
UNDEFINED = "{path}:7:3: runtime error: signed integer overflow: 1 + 2\n"


def sanitizer_reports(case):
    folder = case.top / "reports"
    stock = {"function": "worker", "path": "../tree/util/async.c", "pid": 7,
             "caller": "colo_go ../tree/migration/colo/secondary.c:9",
             "owner": "aio_new ../tree/util/async.c:8",
             "one": " (mutexes: write M1, write M15)", "other": ""}
    ours = {**stock, "function": "colo_x", "pid": 8,
            "path": "../tree/migration/colo/primary.c"}
    write(folder / "report.1", (RACE * 2 + ADDRESS + UNDEFINED)
          .format(**stock))
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        expect(sanitizer.judge(folder) == 0, said.getvalue())
    expect("stock: 2 x data race: worker ../tree/util/async.c" in
           said.getvalue(), said.getvalue())
    for text in RACE, ADDRESS, UNDEFINED:
        for path in (ours["path"], "../tree/net/colo/compare.c",
                     "../tree/block/replication.c", "../tree/replication.c",
                     "../tree/tests/unit/test-colo-conn.c"):
            write(folder / "report.2", text.format(**{**ours, "path": path}))
            said = io.StringIO()
            with contextlib.redirect_stdout(said):
                expect(sanitizer.judge(folder) == 1, path + said.getvalue())
            expect(path in said.getvalue(), said.getvalue())
            expect("1 reports about our files, 4 about" in said.getvalue(),
                   said.getvalue())
    write(folder / "report.2", RACE.format(
        **{**stock, "owner": "colo_new ../tree/net/colo/conn.c:5"}))
    with contextlib.redirect_stdout(io.StringIO()):
        expect(sanitizer.judge(folder) == 1, "the memory is ours")
    write(folder / "report.2", RACE.format(
        **{**ours, "function": "add_data",
           "path": "../tree/migration/colo/batch.c"}))
    with contextlib.redirect_stdout(io.StringIO()):
        expect(sanitizer.judge(folder) == 0, "the guest writes on")
    for held, count in ("write M2, write M15", 0), ("read M15", 1):
        write(folder / "report.2",
              RACE.format(**{**ours, "other": f" (mutexes: {held})"}))
        with contextlib.redirect_stdout(io.StringIO()):
            expect(sanitizer.judge(folder) == count, f"both hold {held}")


CASES = [tree_whole, tree_after_change, tree_after_edit, hunk_that_fails,
         build_without_configure, patch_not_there,
         patch_not_installed, removal_of_what_is_not_there,
         our_file_is_in_qemu, cut_function, wrong_version, tarball,
         tarball_not_whole, mirrors_of_apt, configure_without_mirror,
         configure_without_network, configure_with_wrong_version,
         configure_not_debian, configure_unwritable, no_root_for_apt,
         points_of_tap, counts, sanitizer_reports]


def run(number, function):
    name = function.__name__.replace("_", "-")
    with tempfile.TemporaryDirectory(prefix="colo-tree-") as folder, \
            contextlib.redirect_stdout(io.StringIO()) as said:
        try:
            function(Case(Path(folder)))
            problem = ""
        except Exception:  # pylint: disable=broad-except
            problem = said.getvalue() + traceback.format_exc()
    for line in problem.splitlines():
        print("# " + line)
    print(f"{'not ok' if problem else 'ok'} {number} {name}", flush=True)
    return not problem


def main(wanted):
    chosen = [c for c in CASES if not wanted or
              any(w in c.__name__.replace("_", "-") for w in wanted)]
    print(f"TAP version 13\n1..{len(chosen)}")
    results = [run(n, c) for n, c in enumerate(chosen, 1)]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
