"""Running a reproducer again, and reducing a case that still fails."""

from __future__ import annotations

import math
import time

from mxtrt_fuzz.corpus import Reproducer
from mxtrt_fuzz.execute import Setup
from mxtrt_fuzz.graphs import Case
from mxtrt_fuzz.oracle import Oracle
from mxtrt_fuzz.profiles import PROFILES
from mxtrt_fuzz.reduce import reduce_case
from mxtrt_fuzz.signatures import Failure
from mxtrt_fuzz.worker import Executor, Worker

__all__ = ["failures_of", "reduced", "replay"]


def replay(reproducer: Reproducer, setup: Setup | None = None) -> list[Failure]:
    """What a reproducer fails with now, in a process of its own.

    The time limit is that of the profile for GPUs, where builds take longest.

    Args:
        reproducer: A folder of the corpus.
        setup: Engine, context and masks.
    """
    with Worker(setup or Setup(), PROFILES["gpu"].timeout) as worker:
        worker.submit(reproducer.case, reproducer.arrays)
        try:
            seen = worker.result()
            return Oracle(worker, reproducer.arrays).judge(reproducer.case, seen).failures
        except Failure as failure:
            return [failure]


def failures_of(case: Case, executor: Executor) -> list[Failure]:
    """What a case fails with."""
    try:
        return Oracle(executor).judge(case, executor(case)).failures
    except Failure as failure:
        return [failure]


def reduced(
    case: Case,
    signature: str,
    executor: Executor,
    budget: int = 400,
    end: float = math.inf,
) -> tuple[Case, Failure]:
    """A case made smaller while it fails with a signature.

    Args:
        case: The case.
        signature: Text of the signature.
        executor: Runs cases.
        budget: Number of candidates to try.
        end: Time of ``time.monotonic()`` after which none is tried.

    Raises:
        ValueError: The case does not fail in this way.
    """
    last: dict[Case, Failure] = {}

    def fails(candidate: Case) -> bool:
        for failure in failures_of(candidate, executor):
            if str(failure.signature) == signature:
                last[candidate] = failure
                return True
        return False

    if not fails(case):
        raise ValueError(f"the case does not fail with {signature}")
    smallest = reduce_case(case, lambda one: time.monotonic() < end and fails(one), budget)
    return smallest, last[smallest]
