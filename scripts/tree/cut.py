"""Cut whole functions and declarations out of C text, as the removal list
names them, so that patches need not carry stock code as removed lines.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import re

from .say import Failure

TODO = ("this QEMU differs from the one the removal list was made for: "
        "use a 10.0 release it is known to work with, or mend "
        "patches/removals")


def _head(lines, at):
    """First line of the item that line AT belongs to, comment included."""
    start = at
    while start and lines[start - 1].strip() and \
            not re.match(r"^(}|#)|.*[;{]\s*$", lines[start - 1]):
        start -= 1
    if lines[start].strip().startswith(("*", "*/")):
        while start and not lines[start].lstrip().startswith("/*"):
            start -= 1
    return start


def _find(lines, at, pattern):
    """The first line from AT on that has PATTERN, or None."""
    return next((n for n in range(at, len(lines))
                 if re.search(pattern, lines[n])), None)


def _cut(lines, start, end):
    """LINES without [start, end), nor the blank line that would double."""
    if end < len(lines) and not lines[end].strip() and \
            (start == 0 or not lines[start - 1].strip()):
        end += 1
    return lines[:start] + lines[end:]


def function(text, name, path):
    """TEXT of file PATH without the definition of function NAME."""
    lines = text.split("\n")
    for at, line in enumerate(lines):
        if not re.match(rf"^(?=[A-Za-z_]).*\b{name}\(", line):
            continue
        body = _find(lines, at, r"[;{]\s*$|^{")
        if body is None or lines[body].rstrip().endswith(";"):
            continue
        end = _find(lines, body, r"^}$")
        if end is not None:
            return "\n".join(_cut(lines, _head(lines, at), end + 1))
    raise Failure(f"{path} has no function {name} to remove", TODO)


def declaration(text, name, path):
    """TEXT of file PATH without the declaration of NAME."""
    lines = text.split("\n")
    for at, line in enumerate(lines):
        if not re.match(rf"^(?=[A-Za-z_]).*\b{name}\b", line):
            continue
        end = _find(lines, at, r";\s*$")
        if end is not None:
            return "\n".join(_cut(lines, at, end + 1))
    raise Failure(f"{path} has no declaration of {name} to remove", TODO)
