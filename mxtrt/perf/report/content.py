"""What a report says, whatever it looks like."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mxtrt.observe.text import bytes_text
from mxtrt.offline.coverage import Coverage
from mxtrt.perf.baseline import Baseline
from mxtrt.perf.counters import MEANINGS
from mxtrt.perf.drift import Drift, drifts
from mxtrt.perf.load import Load
from mxtrt.perf.runs import Benchmark, Run
from mxtrt.perf.verdicts import Outcome, judge
from mxtrt.timing.paired import Paired

__all__ = ["Content", "CounterRow", "Row", "content"]

_NONE = "-"


@dataclass(frozen=True, slots=True)
class Row:
    """One benchmark.

    Attributes:
        name: The benchmark, such as ``"zoo/resnet18_v1/1"``.
        verdict: The verdict's name; empty without a baseline.
        tone: ``"bad"``, ``"unsure"``, ``"good"`` or ``"plain"``.
        why: The verdict's reason.
        now: What was measured; None for counters only.
        before: What is stored of it.
    """

    name: str
    verdict: str
    tone: str
    why: str
    now: Paired | None
    before: Paired | None

    @property
    def suite(self) -> str:
        """Its suite."""
        return self.name.split("/")[0]

    @property
    def title(self) -> str:
        """Its name within the suite."""
        return self.name.partition("/")[2]


@dataclass(frozen=True, slots=True)
class CounterRow:
    """One counter of a benchmark, as text.

    Attributes:
        name: The counter.
        meaning: What it counts.
        before: What is stored, a dash for nothing.
        now: What was counted, a dash for nothing.
        tone: ``"bad"`` where there is more, ``"good"`` where there is less, else ``"plain"``.
    """

    name: str
    meaning: str
    before: str
    now: str
    tone: str


@dataclass(frozen=True, slots=True)
class Content:
    """All that a report says.

    Attributes:
        headline: One sentence.
        tone: The sentence's tone.
        run: The run.
        baseline: What it is held against, None for nothing.
        rows: Benchmarks.
        counters: By benchmark, its counters.
        loads: What threads got, fewest threads first, by what they asked for.
        drifts: Changes of level in the history.
        environment: What differs or not: name, before, now.
        coverage: What converters take of a fleet, if one was given.
    """

    headline: str
    tone: str
    run: Run
    baseline: Baseline | None
    rows: Sequence[Row]
    counters: Mapping[str, Sequence[CounterRow]]
    loads: Mapping[str, Sequence[Load]]
    drifts: Sequence[Drift]
    environment: Sequence[tuple[str, str, str]]
    coverage: Coverage | None

    @property
    def suites(self) -> Mapping[str, Sequence[Row]]:
        """The rows by suite."""
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            found.setdefault(row.suite, []).append(row)
        return found

    @property
    def changed(self) -> Mapping[str, Sequence[CounterRow]]:
        """The counters that are not as before, by benchmark."""
        found = {
            name: [row for row in rows if row.tone != "plain"]
            for name, rows in self.counters.items()
        }
        return {name: rows for name, rows in found.items() if rows}


def content(run: Run, baseline: Baseline | None, fleet: Path | None = None) -> Content:
    """What a report of a run says.

    Args:
        run: The run.
        baseline: What it is held against, None for nothing.
        fleet: Models whose operators are looked at, see :func:`mxtrt.offline.coverage.read_models`.
    """
    outcome = judge(run, baseline) if baseline is not None else None
    names = sorted(outcome.judgements if outcome else run.benchmarks, key=_natural)
    headline, tone = _headline(run, outcome)
    coverage = None
    if fleet is not None:
        from mxtrt.offline.coverage import coverage as covered
        from mxtrt.offline.coverage import read_models

        coverage = covered(read_models(fleet))
    return Content(
        headline,
        tone,
        run,
        baseline,
        [_row(name, run, baseline, outcome) for name in names],
        {
            name: rows
            for name in names
            if (rows := _counters(run.benchmarks.get(name), baseline, name))
        },
        _loads(names, run),
        drifts(baseline.history) if baseline else [],
        _environment(run, baseline),
        coverage,
    )


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts numbers within names as numbers."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def _headline(run: Run, outcome: Outcome | None) -> tuple[str, str]:
    if outcome is None:
        return f"{len(run.benchmarks)} benchmarks, held against nothing", "plain"
    count = len(outcome.judgements)
    if outcome.failing:
        names = ", ".join(outcome.failing[:3]) + (" ..." if len(outcome.failing) > 3 else "")
        return f"{len(outcome.failing)} of {count} benchmarks are not as before: {names}", "bad"
    if outcome.undecided:
        return f"{len(outcome.undecided)} of {count} benchmarks are too noisy to tell", "unsure"
    return f"{count} benchmarks are as before, or faster", "good"


def _row(name: str, run: Run, baseline: Baseline | None, outcome: Outcome | None) -> Row:
    benchmark = run.benchmarks.get(name)
    now = benchmark.paired if benchmark else None
    before = baseline.latency.get(name) if baseline else None
    if outcome is None:
        return Row(name, "", "plain", "", now, before)
    judgement = outcome.judgements[name]
    verdict = judgement.verdict
    tone = "bad" if verdict.fails else "unsure" if verdict.undecided else "good"
    return Row(name, verdict.value, tone, judgement.why, now, before)


def _counters(
    benchmark: Benchmark | None, baseline: Baseline | None, name: str
) -> list[CounterRow]:
    now = benchmark.counters if benchmark else {}
    before = baseline.counters.get(name, {}) if baseline else {}
    rows = []
    for counter in [*MEANINGS, *sorted({*now, *before} - set(MEANINGS))]:
        if counter not in now and counter not in before:
            continue
        old, new = before.get(counter), now.get(counter)
        tone = "plain"
        if baseline is not None and old != new:
            tone = "good" if old is not None and new is not None and new < old else "bad"
        meaning = MEANINGS.get(counter, "")
        rows.append(CounterRow(counter, meaning, _text(counter, old), _text(counter, new), tone))
    return rows


def _loads(names: Sequence[str], run: Run) -> Mapping[str, Sequence[Load]]:
    found: dict[str, list[Load]] = {}
    for name in names:
        benchmark = run.benchmarks.get(name)
        if benchmark is not None and "load" in benchmark.facts:
            subject = name.partition("/")[2].rpartition("/")[0]  # without suite and threads
            found.setdefault(subject, []).append(Load.of(benchmark.facts["load"]))
    return {subject: sorted(some, key=lambda one: one.threads) for subject, some in found.items()}


def _text(counter: str, value: float | None) -> str:
    if value is None:
        return _NONE
    return bytes_text(int(value)) if counter.endswith("bytes") else f"{value:g}"


def _environment(run: Run, baseline: Baseline | None) -> list[tuple[str, str, str]]:
    old: Mapping[str, Any] = baseline.environment if baseline else {}
    names = list(dict.fromkeys([*run.environment, *old]))
    found = [(n, _plain(old.get(n)), _plain(run.environment.get(n))) for n in names]
    return [(name, before, now) for name, before, now in found if {before, now} != {_NONE}]


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {item}" for key, item in value.items()) or _NONE
    return _NONE if value in (None, "") else str(value)
