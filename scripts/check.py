#!/usr/bin/env python3
"""Run suites of the outer build's tests and sum up.

usage: check.py BUILD SUITE...

meson runs them and shows progress; the last line counts test cases, not
programs: N passed, N failed, N skipped. A skip's reason is printed.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import json
import re
import subprocess
import sys
from pathlib import Path

# TAP's own words are lower case; a program's closing "OK: ..." is no point.
POINT = re.compile(r"^(ok|not ok)\b\s*\d*\s*(.*?)"
                   r"(?:\s+#\s*((?i:SKIP|TODO))\b(.*))?$")


def points(text):
    """[(verdict, name, reason)] of one program's TAP, outermost level."""
    found = []
    for line in text.splitlines():
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
                print(f"{verdict}: {program['name']}: {name} {reason}")
        fine = program["result"] in ("OK", "SKIP", "EXPECTEDFAIL")
        if not fine and not any(v == "failed" for v, _, _ in found):
            totals["failed"] += 1
            print(f"failed: {program['name']}: {program['result']}")
        elif fine and not found:
            totals["skipped" if program["result"] == "SKIP" else
                   "passed"] += 1
    return totals


def main(build, suites):
    command = ["meson", "test", "-C", build, "--no-rebuild", "--num-processes",
               "2", "--print-errorlogs", "--no-suite", "bench"]
    for suite in suites:
        command += ["--suite", suite]
    log = Path(build) / "meson-logs/testlog.json"
    log.unlink(missing_ok=True)
    done = subprocess.run(command, check=False)
    if not log.exists():
        print("0 passed, 1 failed, 0 skipped")
        return 1
    totals = count(log)
    print("{passed} passed, {failed} failed, {skipped} skipped"
          .format(**totals))
    return 1 if totals["failed"] or done.returncode or \
        not totals["passed"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
