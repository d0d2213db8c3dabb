# One thing to measure
#
# SPDX-License-Identifier: GPL-2.0-or-later

from dataclasses import dataclass
from typing import Callable


@dataclass(frozen=True)
class Task:
    """A workload and what measures it

    @run gets the pair (None where the task brings QEMUs of its own) and
    returns a dict of metrics; an exception is reported as the workload's
    failure. @ends: no other task can use the pair afterwards.
    """
    bench: str
    workload: str
    run: Callable
    ends: bool = False
