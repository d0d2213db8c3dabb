#!/usr/bin/env python3
"""Run suites of the outer build's tests and sum up.

usage: check.py [--sanitized FACTOR] BUILD SUITE...

meson runs them and shows progress; the last line counts test cases, not
programs: N passed, N failed, N skipped. A skip's reason is printed.

In a build with a sanitizer everything gets FACTOR times as long, and a report
that is about one of our files is a failure.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import sanitizer

# TAP's own words are lower case; a program's closing "OK: ..." is no point.
POINT = re.compile(r"^(ok|not ok)\b\s*\d*\s*(.*?)"
                   r"(?:\s+#\s*((?i:SKIP|TODO))\b(.*))?$")
# A program that skips all it has
NO_PLAN = re.compile(r"^1\.\.0\s+#\s*(?i:SKIP)\w*:?(.*)")


def points(text):
    """[(verdict, name, reason)] of one program's TAP, outermost level."""
    found = []
    for line in text.splitlines():
        match = NO_PLAN.match(line)
        if match:
            found.append(("skipped", "", match.group(1).strip()))
        match = POINT.match(line)
        if not match:
            continue
        ok, name, directive, reason = match.groups()
        if (directive or "").upper() == "SKIP":
            found.append(("skipped", name, (reason or "").strip()))
        else:
            found.append(("passed" if ok == "ok" else "failed", name, ""))
    return found


def count(log):
    totals = {"passed": 0, "failed": 0, "skipped": 0}
    for line in log.read_text(encoding="utf-8").splitlines():
        program = json.loads(line)
        found = points(program.get("stdout", ""))
        for verdict, name, reason in found:
            totals[verdict] += 1
            if verdict != "passed":
                print(f"{verdict}: {program['name']}: {name} {reason}"
                      .rstrip())
        fine = program["result"] in ("OK", "SKIP", "EXPECTEDFAIL")
        if not fine and not any(v == "failed" for v, _, _ in found):
            totals["failed"] += 1
            print(f"failed: {program['name']}: {program['result']}")
        elif fine and not found:
            totals["skipped" if program["result"] == "SKIP" else
                   "passed"] += 1
    return totals


def run_tests(build, suites, factor, env):
    command = ["meson", "test", "-C", str(build), "--no-rebuild",
               "--num-processes", "2", "--print-errorlogs",
               "--timeout-multiplier", str(factor), "--no-suite", "bench"]
    for suite in suites:
        command += ["--suite", suite]
    return subprocess.run(command, env=env, check=False).returncode


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--sanitized", type=int, metavar="FACTOR", default=0)
    parser.add_argument("build", type=Path)
    parser.add_argument("suites", nargs="+")
    args = parser.parse_args()
    # Two programs run side by side: the limits of a quiet machine, twice
    env = {"COLO_TEST_SCALE": "2", **os.environ}
    reports = args.build.resolve() / "sanitizer"
    if args.sanitized:
        shutil.rmtree(reports, ignore_errors=True)
        reports.mkdir()
        env.update(sanitizer.environment(reports),
                   COLO_TEST_SCALE=str(args.sanitized))
    log = args.build / "meson-logs/testlog.json"
    log.unlink(missing_ok=True)
    failed = run_tests(args.build, args.suites, args.sanitized or 2, env)
    if not log.exists():
        print("0 passed, 1 failed, 0 skipped")
        return 1
    totals = count(log)
    if args.sanitized:
        totals["failed"] += sanitizer.judge(reports)
    print("{passed} passed, {failed} failed, {skipped} skipped"
          .format(**totals))
    return 1 if totals["failed"] or failed or not totals["passed"] else 0


if __name__ == "__main__":
    sys.exit(main())
