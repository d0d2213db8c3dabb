"""Reports of sanitizers: which of them are about our files.

QEMU's own code has findings of its own; what a run sees of them is counted,
as a baseline, and does not fail it. A report that names one of our files in
one of its stacks does. Of a data race only the code that made an access
counts, and the code that allocated what was accessed: what led there is no
party to it. (QEMU's thread pool races with its own bottom halves, whoever
submits the request.) Nor does a race count between two who hold the same
mutex: ThreadSanitizer takes a coroutine for a thread of its own, and after one
has let go of the BQL for the main loop, as the one that loads an incoming
migration does, it no longer sees that the BQL orders anything.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import collections
import re

# ThreadSanitizer's and AddressSanitizer's begin with a banner and end with a
# summary; UndefinedBehaviorSanitizer's are a line and, perhaps, a stack.
START = re.compile(r"(WARNING: ThreadSanitizer: |ERROR: \w+Sanitizer: |"
                   r": runtime error: )(.*)")
FRAME = re.compile(r"^\s+#\d+ (?:0x[0-9a-f]+ in )?(\S+) (\S+?)(?::\d+)*(?: |$)")
# What begins the stacks of a data race
ACCESS = re.compile(r"^\s+(?:previous )?(?:atomic )?(?:read|write) of size",
                    re.IGNORECASE)
LOCATION = re.compile(r"^\s+Location is ")
# Mutexes that an access held, in its heading
HELD = re.compile(r"write (M\d+)")
# Frames that work for their caller: libraries, inline functions, allocators.
# Not so the dirty bitmaps' functions: they race with the vCPUs by design, for
# ordinary migration too (QEMU's tests/tsan/ignore.tsan).
HELPER = re.compile(r"<null>|libsanitizer|sanitizer_common|sysdeps/|"
                    r"/include/(?!exec/ram_addr\.h)|"
                    r"/util/(memalign|oslib-\w+)\.c")
# What reads guest memory to send it ahead, while guest and devices write to it:
# what it misses is in the dirty log, and sent again.
AHEAD = re.compile(r"(add_data|colo_sender_is_zero) "
                   r"(.*/)?migration/colo/(batch|sender)\.c")
OURS = re.compile(r"(^|/)(migration/colo/|net/colo/|block/replication|"
                  r"replication\.c|tests/\w+/(test-)?colo|colo-\w+-test\.c|"
                  r"test-colo-)")


class Report:
    """One finding: its title, its text, its frames as (function, file)

    parties: of the frames those that made an access, or the object
    held: for each access the mutexes that were held
    """

    def __init__(self, title, text):
        self.title = title
        self.text = text
        self.frames = []
        self.parties = []
        self.held = []
        self.in_party = False

    def add(self, line):
        self.text += line + "\n"
        match = FRAME.match(line)
        if not match:
            access = ACCESS.match(line)
            self.in_party = bool(access or LOCATION.match(line))
            if access:
                self.held.append(set(HELD.findall(line)))
            return
        self.frames.append(match.groups())
        if self.in_party and not HELPER.search(match.group(2)):
            self.parties.append(match.groups())
            self.in_party = False

    def ordered(self):
        return len(self.held) == 2 and bool(self.held[0] & self.held[1])

    def ours(self):
        frames = self.frames
        if self.title.startswith("data race"):
            frames = [] if self.ordered() else [
                (function, path) for function, path in self.parties
                if not AHEAD.fullmatch(f"{function} {path}")]
        return any(OURS.search(path) for _, path in frames) or \
            bool(OURS.search(self.title))

    def place(self):
        """Where stock code reports, as one line."""
        for function, path in self.frames:
            if not HELPER.search(path):
                return f"{self.title.split(' (')[0]}: {function} {path}"
        return self.title


def parse(text):
    reports = []
    for line in text.splitlines():
        match = START.search(line)
        if match:
            title = match.group(2)
            if "runtime error" in match.group(1):
                title = line.strip()
            reports.append(Report(title, line + "\n"))
        elif reports:
            reports[-1].add(line)
    return reports


def judge(folder):
    """Print what the logs in @folder say. How many reports are about us."""
    bad, baseline, ordered = [], collections.Counter(), 0
    for log in sorted(folder.glob("*")):
        for report in parse(log.read_text(encoding="utf-8",
                                          errors="replace")):
            if report.ours():
                bad.append(report)
            elif report.ordered():
                ordered += 1
            else:
                baseline[report.place()] += 1
    for place, count in baseline.most_common():
        print(f"stock: {count} x {place}")
    for report in bad:
        print(report.text)
    print(f"{len(bad)} reports about our files, {sum(baseline.values())} "
          f"about QEMU's own code, at {len(baseline)} places, {ordered} "
          "under a common mutex")
    return len(bad)


def environment(folder):
    """Variables that send every report of every process to @folder.

    The process goes on after a data race, and after a leak; everything else
    ends it.
    """
    log = f"log_path={folder}/report"
    return {
        "ASAN_OPTIONS": f"{log}:detect_stack_use_after_return=0:"
                        # glib has no frame pointers
                        "fast_unwind_on_malloc=0",
        "LSAN_OPTIONS": "exitcode=0:report_objects=1",
        "UBSAN_OPTIONS": f"{log}:print_stacktrace=1:halt_on_error=0",
        # RCU starts a thread in a child before the child calls exec. TCG locks
        # as many pages at a time as there is code in, and the search for
        # deadlocks ends the process at the 64th lock.
        "TSAN_OPTIONS": f"{log}:exitcode=0:halt_on_error=0:die_after_fork=0:"
                        "detect_deadlocks=0:history_size=7",
    }
