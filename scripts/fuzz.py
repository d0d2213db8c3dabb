#!/usr/bin/env python3
"""Build the fuzzers with libFuzzer, ASan and UBSan, and run each for a time.

usage: fuzz.py BUILD SECONDS [NAME...]

The commands that QEMU's build has for the corpus replay programs are run
again with clang. What a fuzzer finds to be interesting stays in
BUILD/fuzz/NAME, next to the repository's corpus; a finding is kept there too
and ends the run.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
CORPUS = REPO / "tests/fuzz/corpus"
SANITIZE = ["-fsanitize=fuzzer,address,undefined",
            "-fno-sanitize-recover=undefined"]
TOOLS = """clang with libFuzzer is missing; on Debian:
  apt-get install clang libclang-rt-14-dev      (19 on Debian 13)"""


def commands(qemu, target):
    """(compile commands, link command) of @target, as lists of words."""
    done = subprocess.run(["ninja", "-t", "commands", target], cwd=qemu,
                          capture_output=True, text=True, check=True)
    lines = [shlex.split(line) for line in done.stdout.splitlines()
             if target in line]
    return [w for w in lines if "-c" in w], lines[-1]


def compiler_at(words):
    """Where the arguments begin: behind "ccache gcc"."""
    return 2 if Path(words[0]).name == "ccache" else 1


def run(words, qemu):
    subprocess.run(words, cwd=qemu, check=True)


def build(qemu, name, out):
    """The fuzzer's path."""
    target = f"tests/fuzz/replay-colo-{name}"
    compiles, link = commands(qemu, target)
    objects = {}
    for number, words in enumerate(compiles):
        at = words.index("-o")
        obj = str(out / f"{number}.o")
        objects[words[at + 1]] = obj
        if "replay-main" in words[-1]:
            continue
        args = words[compiler_at(words):at] + ["-o", obj] + words[at + 2:]
        run(["clang", *SANITIZE, "-Wno-everything",
             *(a for a in args if not re.match(r"-M[DQF]$|.*\.o\.d$|"
                                               r"-fzero-call-used|-ftrivial-auto|"
                                               r"tests/fuzz/.*\.o$", a))],
            qemu)
    fuzzer = str(out / name)
    words = link[compiler_at(link):]
    words[words.index("-o") + 1] = fuzzer
    main = next(o for o in objects if "replay-main" in o)
    run(["clang", *SANITIZE, *(objects.get(w, w) for w in words
                               if w != main)], qemu)
    return fuzzer


def fuzz(qemu, name, seconds, top):
    out = top / name
    found = out / "corpus"
    found.mkdir(parents=True, exist_ok=True)
    fuzzer = build(qemu, name, out)
    print(f"==> fuzzing {name} for {seconds} s", flush=True)
    done = subprocess.run(
        [fuzzer, f"-max_total_time={seconds}", "-print_final_stats=1",
         "-timeout=20", "-verbosity=0", f"-artifact_prefix={out}/finding-",
         str(found), str(CORPUS / f"colo-{name}")], check=False,
        stderr=subprocess.STDOUT, stdout=subprocess.PIPE, text=True)
    stats = dict(re.findall(r"stat::(\w+):\s+(\d+)", done.stdout))
    if done.returncode:
        print(done.stdout)
        print(f"{name}: a finding, kept in {out}")
        return False
    print(f"{name}: {stats.get('number_of_executed_units')} inputs, no "
          "finding", flush=True)
    return True


def main(build_folder, seconds, *names):
    qemu = Path(build_folder).resolve() / "qemu"
    top = Path(build_folder).resolve() / "fuzz"
    names = names or sorted(p.name[len("colo-"):] for p in CORPUS.iterdir())
    if not shutil.which("clang"):
        print(TOOLS)
        return 1
    results = [fuzz(qemu, name, int(seconds), top) for name in names]
    print(f"{sum(results)} of {len(results)} fuzzers without a finding")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
