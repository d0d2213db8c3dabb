#!/usr/bin/env python3
"""Replay a fuzzer's corpus: replay.py PROGRAM CORPUS

The corpus must be there, and the program must survive all of it.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import subprocess
import sys
from pathlib import Path


def main(program, corpus):
    if not any(Path(corpus).iterdir()):
        print(f"{corpus} is empty")
        return 1
    return subprocess.run([program, corpus], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
