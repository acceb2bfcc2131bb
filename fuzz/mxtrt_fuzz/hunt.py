"""A hunt: Hypothesis draws cases, an executor runs them, the oracle judges, a report counts."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.database import ExampleDatabase

from mxtrt_fuzz.execute import Observation
from mxtrt_fuzz.generate import cases
from mxtrt_fuzz.graphs import Case
from mxtrt_fuzz.oracle import Oracle, Verdict
from mxtrt_fuzz.report import FuzzReport
from mxtrt_fuzz.signatures import Failure
from mxtrt_fuzz.worker import Executor

__all__ = ["Hunt", "Stop", "never"]

#: Asked before every case whether to end now.
Stop = Callable[[], bool]

#: Cases that are drawn by one run of Hypothesis: failures are shrunk in between.
ROUND = 200

#: Cases that are drawn beyond those wanted, where small ones are passed over.
_SPARE = 20

#: Cases that are run to make one round's failures smaller.
_SHRINKING = 150


def never() -> bool:
    """Do not end."""
    return False


class _Enough(BaseException):
    """Ends a run of Hypothesis, which catches no BaseException."""


class Hunt:
    """Looks for failures until its examples or its time are used up.

    Args:
        executor: Runs the cases.
        examples: How many cases to draw.
        seconds: How long, or None.
        seed: Two hunts of one seed draw the same cases (unless a database intervenes).
        strategy: Strategy of the cases.
        targeted: Steer towards larger errors.
        database: Hypothesis' example database, to go on where another hunt was.
        progress: Called after every case with the report so far.
        least: Operators of the smallest graph that is run.
        shrink: Make failures smaller; otherwise the first failure of each round is kept.
        explained: Signatures that are known: counted, not looked into.
        stop: Asked before every case whether to end now.
    """

    def __init__(
        self,
        executor: Executor,
        *,
        examples: int,
        seconds: float | None = None,
        seed: int = 0,
        strategy: st.SearchStrategy[Case] | None = None,
        targeted: bool = False,
        database: ExampleDatabase | None = None,
        progress: Callable[[FuzzReport], None] | None = None,
        least: int = 1,
        shrink: bool = True,
        explained: Iterable[str] = (),
        stop: Stop = never,
    ) -> None:
        self.report = FuzzReport()
        self.oracle = Oracle(executor)
        self._executor = executor
        self._examples, self._seconds, self._seed = examples, seconds, seed
        self._strategy = cases() if strategy is None else strategy
        self._targeted, self._database = targeted, database
        self._progress = progress
        self._stop = stop
        self._least = least
        self._phases = [Phase.generate, Phase.target]
        if shrink:
            self._phases.append(Phase.shrink)
        self._begin = 0.0
        self._drawn = 0
        self._explained: set[str] = set(explained)
        self._outcomes: dict[Case, Failure | None] = {}
        self._failed_at = -1

    def run(self) -> FuzzReport:
        """Hunt."""
        self._begin = time.perf_counter()
        number = 0
        while self._drawn < self._examples and not self._time_is_up():
            before = self._drawn
            # In the first round only: later its failures are passed over, and Hypothesis would
            # delete them from the database as fixed.
            reuse = [Phase.reuse] if number == 0 else []
            # Some are too small to be run.
            examples = self._examples - self._drawn + (_SPARE if self._least > 1 else 0)
            self._round(self._seed + 7919 * number, min(ROUND, examples), reuse)
            number += 1
            if self._drawn == before:  # nothing new can be drawn
                break
        self.report.wall = time.perf_counter() - self._begin
        return self.report

    def _round(self, seed: int, examples: int, reuse: list[Phase]) -> None:
        """One run of Hypothesis; what it found is explained afterwards and passed over."""
        self._outcomes.clear()
        self._failed_at = -1
        resumed = time.perf_counter()

        @settings(
            max_examples=examples,
            deadline=None,
            database=self._database,
            phases=reuse + self._phases,
            suppress_health_check=list(HealthCheck),
            print_blob=False,
            verbosity=hypothesis.Verbosity.quiet,
        )
        @hypothesis.seed(seed)  # below the settings: above them it takes the database away
        @given(self._strategy)
        def check(case: Case) -> None:
            nonlocal resumed
            self.report.seconds["generation"] += time.perf_counter() - resumed  # type: ignore[assignment]
            try:
                self._check(case)
            finally:
                resumed = time.perf_counter()

        try:
            check()
        except _Enough:
            pass  # the report has the smallest case of every failure so far
        except Exception as error:
            if not _only_failures(error):
                raise
        self._explained.update(self.report.found)

    def _check(self, case: Case) -> None:
        if case not in self._outcomes:
            if self._failed_at < 0 and len(case.operations) < self._least:
                return
            done = self._failed_at < 0 and self._drawn >= self._examples
            if done or self._time_is_up() or self._shrunk_enough():
                raise _Enough
            self._outcomes[case] = self._judge(case)
            if self._failed_at < 0:
                self._drawn += 1
        failure = self._outcomes[case]
        if failure is not None:
            if self._failed_at < 0:
                self._failed_at = len(self._outcomes)
            raise failure.specific()

    def _judge(self, case: Case) -> Failure | None:
        """Run a case and judge it; None when there is nothing new to report."""
        self._executor.submit(case)
        begin = time.perf_counter()
        known = self.oracle.limits(case)  # while the worker works
        self._spend("reference", begin)
        try:
            begin = time.perf_counter()
            seen = Observation()
            try:
                seen = self._executor.result()
            finally:
                self._waited(time.perf_counter() - begin, seen)
            begin = time.perf_counter()
            verdict = self.oracle.judge(case, seen, known)
            self._spend("judging", begin)
        except Failure as failure:
            seen, verdict = Observation(), Verdict([failure])
        self.report.add(case, seen, verdict)
        for found in verdict.failures:
            self.report.record(case, found)
        if self._targeted and 0 < verdict.worst < math.inf:
            hypothesis.target(math.log(verdict.worst), label="error/limit")
        if self._progress is not None:
            self.report.wall = time.perf_counter() - self._begin
            self._progress(self.report)
        fresh = [f for f in verdict.failures if str(f.signature) not in self._explained]
        return fresh[0] if fresh else None

    def _waited(self, seconds: float, seen: Observation) -> None:
        """Note what the worker did last while its answer was waited for."""
        for what, spent in reversed(seen.seconds.items()):
            share = min(spent, seconds)
            self.report.seconds[what] += share  # type: ignore[assignment]
            seconds -= share
        lost = "starting workers" if seen.seconds else "workers that ended"
        self.report.seconds[lost] += seconds  # type: ignore[assignment]

    def _spend(self, what: str, begin: float) -> None:
        spent: Any = time.perf_counter() - begin
        self.report.seconds[what] += spent

    def _time_is_up(self) -> bool:
        if self._stop():
            return True
        return self._seconds is not None and time.perf_counter() - self._begin > self._seconds

    def _shrunk_enough(self) -> bool:
        return 0 <= self._failed_at < len(self._outcomes) - _SHRINKING


def _only_failures(error: BaseException) -> bool:
    together = getattr(error, "exceptions", ())  # of an ExceptionGroup, which Python 3.10 lacks
    return isinstance(error, Failure) or (bool(together) and all(map(_only_failures, together)))
