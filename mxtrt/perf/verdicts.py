"""A run against a baseline: a verdict for every benchmark and every counter."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mxtrt.perf.baseline import Baseline
from mxtrt.perf.runs import Benchmark, Run
from mxtrt.timing.paired import Paired

__all__ = [
    "LEAST_TOLERANCE",
    "CounterChange",
    "Judgement",
    "Outcome",
    "Verdict",
    "judge",
    "judge_latency",
]

#: What a ratio may lose in any case, as a logarithm.
LEAST_TOLERANCE = 0.03

# By how much these counters may change, relatively.  Kernels choose the layout of weights and their
# scratch memory, and which kernels run is not fixed: TensorRT picks them by timing them, ONNX
# Runtime by its version and the CPU.
# How many runs overlap is a matter of timing, but for one thread and two.
_PICKED = {"engine_bytes": 0.05, "activation_bytes": 0.05, "lanes": 0.25}
_ELSEWHERE = {"activation_bytes": math.inf}


class Verdict(enum.Enum):
    """What became of one benchmark."""

    OK = "OK"
    FASTER = "FASTER"
    SLOWER = "SLOWER"
    AMBIGUOUS = "AMBIGUOUS"
    VOID = "VOID"
    MORE = "MORE"
    LESS = "LESS"
    NEW = "NEW"
    MISSING = "MISSING"

    @property
    def fails(self) -> bool:
        """Whether the gate is shut: the baseline has to be met or, with a reason, updated."""
        return self in _FAIL

    @property
    def undecided(self) -> bool:
        """Whether measuring again may tell."""
        return self in (Verdict.AMBIGUOUS, Verdict.VOID)


# The first of these that applies to a benchmark is its verdict.
_ORDER = (
    Verdict.MISSING,
    Verdict.NEW,
    Verdict.MORE,
    Verdict.SLOWER,
    Verdict.LESS,
    Verdict.AMBIGUOUS,
    Verdict.VOID,
    Verdict.FASTER,
    Verdict.OK,
)
_FAIL = frozenset({Verdict.MISSING, Verdict.NEW, Verdict.MORE, Verdict.SLOWER, Verdict.LESS})


@dataclass(frozen=True, slots=True)
class CounterChange:
    """A counter that differs from the baseline's."""

    name: str
    before: float
    now: float


@dataclass(frozen=True, slots=True)
class Judgement:
    """One benchmark's verdict.

    Attributes:
        verdict: The verdict.
        why: One sentence.
        changes: Counters that differ.
        before: What the baseline has of it.
        now: What the run has of it.
    """

    verdict: Verdict
    why: str
    changes: tuple[CounterChange, ...] = ()
    before: Benchmark | None = None
    now: Benchmark | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """All verdicts of a run.

    Attributes:
        judgements: By benchmark.
    """

    judgements: Mapping[str, Judgement]

    def named(self, *verdicts: Verdict) -> list[str]:
        """The benchmarks with one of these verdicts."""
        return [name for name, j in self.judgements.items() if j.verdict in verdicts]

    @property
    def failing(self) -> list[str]:
        """The benchmarks that shut the gate."""
        return [name for name, j in self.judgements.items() if j.verdict.fails]

    @property
    def undecided(self) -> list[str]:
        """The benchmarks to measure again."""
        return [name for name, j in self.judgements.items() if j.verdict.undecided]

    @property
    def exit_code(self) -> int:
        """0 open, 1 shut, 3 undecided."""
        return 1 if self.failing else 3 if self.undecided else 0

    def to_dict(self) -> dict[str, Any]:
        """The verdicts as JSON-ready data."""
        return {
            "exit_code": self.exit_code,
            "undecided": self.undecided,
            "verdicts": {
                name: {"verdict": j.verdict.value, "why": j.why}
                for name, j in self.judgements.items()
            },
        }


def judge(run: Run, baseline: Baseline) -> Outcome:
    """Compare a run with a baseline.

    Args:
        run: The run; what it was not asked for is not missed.
        baseline: What is expected.
    """
    found: dict[str, Judgement] = {}
    slack = _slack(run.environment, baseline.environment)
    for name in sorted({*run.benchmarks, *baseline.names}):
        now = run.benchmarks.get(name)
        if now is None and not run.was_asked_for(name):
            continue
        before = None
        if name in baseline.names:
            before = Benchmark(baseline.counters.get(name, {}), baseline.latency.get(name))
        found[name] = _judge(before, now, slack)
    return Outcome(found)


def _slack(now: Mapping[str, Any], before: Mapping[str, Any]) -> Mapping[str, float]:
    if str(now.get("engine", "")).startswith("tensorrt"):
        return _PICKED
    same = all(now.get(name) == before.get(name) for name in ("engine", "key"))
    return {} if same else _ELSEWHERE


def _judge(
    before: Benchmark | None, now: Benchmark | None, slack: Mapping[str, float]
) -> Judgement:
    if now is None:
        return Judgement(Verdict.MISSING, "the run lacks it", (), before, now)
    if before is None:
        return Judgement(Verdict.NEW, "the baseline lacks it", (), before, now)
    if not now.counters and now.paired is None:
        return Judgement(Verdict.OK, "nothing of it was counted or measured", (), before, now)
    reasons: dict[Verdict, list[str]] = {}
    changes = []
    for name in sorted({*before.counters, *now.counters}):
        old, new = before.counters.get(name), now.counters.get(name)
        if old is None or new is None:
            verdict = Verdict.NEW if old is None else Verdict.MISSING
            reasons.setdefault(verdict, []).append(f"the counter {name}")
        elif old != new and abs(new - old) > slack.get(name, 0.0) * max(old, new):
            changes.append(CounterChange(name, old, new))
            verdict = Verdict.MORE if new > old else Verdict.LESS
            reasons.setdefault(verdict, []).append(f"{name} {old:g} -> {new:g}")
    if now.paired is not None:
        verdict, why = judge_latency(before.paired, now.paired)
        reasons.setdefault(verdict, []).append(why)
    verdict = next((v for v in _ORDER if v in reasons), Verdict.OK)
    why = "; ".join(reasons.get(verdict, ["as before"]))
    return Judgement(verdict, why, tuple(changes), before, now)


def judge_latency(before: Paired | None, now: Paired) -> tuple[Verdict, str]:
    """The verdict on a speed-up, and why.

    The tolerance is :data:`LEAST_TOLERANCE`, or three times the noise of this run's control.  The
    stored speed-up has an interval too: it adds to the tolerance as independent errors do, by the
    root of the sum of squares.

    Args:
        before: What is stored, None for nothing.
        now: What this run measured; too noisy, it could not be stored either.
    """
    figures = f"{now.ratio:.3f}x ({now.low:.3f} to {now.high:.3f})"
    if before is not None:
        figures = f"{before.ratio:.3f}x -> {figures}"
    if now.is_void:
        return Verdict.VOID, (
            f"too noisy to tell: plain MXNet against itself is {now.control_low:.3f} to "
            f"{now.control_high:.3f}; {figures}"
        )
    if before is None:
        return Verdict.NEW, f"the baseline lacks its latency: {figures}"
    tolerance = max(LEAST_TOLERANCE, 3 * now.noise)
    lowest = before.ratio * math.exp(-math.hypot(tolerance, math.log(before.ratio / before.low)))
    highest = before.ratio * math.exp(math.hypot(tolerance, math.log(before.high / before.ratio)))
    if now.high < lowest:
        return Verdict.SLOWER, f"{figures}, below {lowest:.3f}x"
    if now.low < lowest:
        return Verdict.AMBIGUOUS, f"{figures} straddles {lowest:.3f}x"
    if now.low > highest:
        return Verdict.FASTER, f"{figures}, above {highest:.3f}x"
    return Verdict.OK, figures
