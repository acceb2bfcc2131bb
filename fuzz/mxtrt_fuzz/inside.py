"""What runs in the Python of a program in C: its options, and what it has to report."""

from __future__ import annotations

import faulthandler
import json
import os
import pickle
import sys
from typing import Any

import mxtrt
import mxtrt.config
import mxtrt.convert.general
import mxtrt.frontends.embedded
import mxtrt.observe.report
from mxtrt.trial.check import forget
from mxtrt_fuzz.again import PROOFS
from mxtrt_fuzz.complaints import Complaints

__all__ = ["begin", "fresh", "set_options", "tell", "wait"]

_complaints = Complaints()


def begin(planted: str) -> None:
    """Once, before anything is bound.

    Args:
        planted: The name of a mutant, empty for none.

    Raises:
        RuntimeError: The program runs plain MXNet; it has said why.
    """
    if not mxtrt.frontends.embedded._kept:
        raise RuntimeError("no engines")
    faulthandler.enable(sys.stderr)
    _complaints.__enter__()
    mxtrt.convert.general.PROOFS = PROOFS
    if planted:
        from mxtrt_fuzz.mutants import IN_PROGRAMS

        _kept.append(IN_PROGRAMS[planted]())
        _kept[-1].__enter__()


_kept: list[Any] = []


def set_options(text: str) -> None:
    """Set all options of later binds, given as JSON."""
    mxtrt.config._process.clear()
    mxtrt.enable(**json.loads(text))


def fresh(forgets: bool) -> None:
    """Take what earlier binds reported away, and have the next one find nothing of them.

    Args:
        forgets: Whether the latter is wanted.
    """
    if forgets:
        forget()
    mxtrt.observe.report._last = None
    _complaints.first = ""


def wait(seconds: float) -> None:
    """Wait until nothing is being built in the background."""
    mxtrt.ready(timeout=seconds)


def tell(file: int) -> None:
    """Write the last report, and the first complaint, to a file that is open."""
    os.ftruncate(file, 0)
    os.pwrite(file, pickle.dumps((mxtrt.last_report(), _complaints.first)), 0)
