"""What a run is held against: ``baselines/<key>/``, one folder per kind of machine.

``counters.json`` and ``latency.json`` hold what is expected, ``env.json`` the machine that it was
measured on, and ``history.jsonl`` one line per recorded run with the reason for it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mxtrt.errors import OptionError
from mxtrt.perf.runs import Run
from mxtrt.system.files import write_text
from mxtrt.timing.paired import Paired

__all__ = ["Baseline", "read_baseline", "update_baseline"]


@dataclass(frozen=True, slots=True)
class Baseline:
    """A stored baseline.

    Attributes:
        environment: The machine that it was measured on.
        counters: By benchmark, the counters by name.
        latency: By benchmark, what was measured.
        history: Recorded runs, oldest first: time, commit, reason, ratios and counters.
    """

    environment: Mapping[str, Any] = field(default_factory=dict)
    counters: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    latency: Mapping[str, Paired] = field(default_factory=dict)
    history: Sequence[Mapping[str, Any]] = ()

    @property
    def names(self) -> frozenset[str]:
        """The benchmarks that it knows."""
        return frozenset({*self.counters, *self.latency})


def read_baseline(folder: Path) -> Baseline:
    """A baseline from its folder.

    Raises:
        OptionError: There is none, or a file of it cannot be read.
    """
    try:
        environment = json.loads((folder / "env.json").read_text())
        counters = json.loads((folder / "counters.json").read_text())
        latency = json.loads((folder / "latency.json").read_text())
        lines = (folder / "history.jsonl").read_text().splitlines()
        return Baseline(
            environment,
            counters,
            {name: Paired(**figures) for name, figures in latency.items()},
            [json.loads(line) for line in lines if line.strip()],
        )
    except FileNotFoundError as error:
        raise OptionError(
            f"there is no baseline: {error.filename} is missing; on a machine that gates, record "
            'one with: nox -s baseline_update -- --reason "..."'
        ) from None
    except (OSError, ValueError, TypeError) as error:
        raise OptionError(f"the baseline {folder} cannot be read: {error}") from None


def update_baseline(folder: Path, run: Run, reason: str, *, forget: bool = False) -> list[str]:
    """Make a run the baseline; every file is replaced at once or stays.

    A latency whose control fails is nothing to expect: the old one stays, if there is one.  So do
    benchmarks that the run was not asked for.

    Args:
        folder: The baseline's folder; made if there is none.
        run: What is expected from now on.
        reason: Why, for those who read the history.
        forget: Whether to forget benchmarks that the run was asked for and lacks.

    Returns:
        Benchmarks whose latency was too noisy to be recorded.

    Raises:
        OptionError: The reason is empty, benchmarks would be forgotten, or a file cannot be read
            or written.
    """
    if not reason.strip():
        raise OptionError("a baseline is updated for a reason; give it with --reason")
    old = read_baseline(folder) if (folder / "env.json").exists() else Baseline()
    lost = {n for n in old.names - run.benchmarks.keys() if run.was_asked_for(n)}
    if lost and not forget:
        raise OptionError(
            f"the run lacks {', '.join(sorted(lost))}, which the baseline has: give --forget to "
            "delete what is stored of them"
        )
    counters = {name: known for name, known in old.counters.items() if name not in lost}
    latency = {name: p.to_dict() for name, p in old.latency.items() if name not in lost}
    figures = {name: b.paired for name, b in run.benchmarks.items() if b.paired is not None}
    measured = {name: paired for name, paired in figures.items() if not paired.is_void}
    for name, benchmark in run.benchmarks.items():
        counters[name] = dict(benchmark.counters)
        if name in measured:
            latency[name] = measured[name].to_dict()
        elif name in old.latency:
            latency[name] = old.latency[name].to_dict()
    entry = {
        "time": run.time,
        "commit": run.commit,
        "reason": reason.strip(),
        "ratios": {name: [p.ratio, p.low, p.high] for name, p in sorted(measured.items())},
        "counters": {name: dict(b.counters) for name, b in sorted(run.benchmarks.items())},
    }
    history = [json.dumps(line) for line in (*old.history, entry)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "counters.json", _text(counters))
        write_text(folder / "latency.json", _text(latency))
        write_text(folder / "history.jsonl", "\n".join(history) + "\n")
        write_text(folder / "env.json", _text(dict(run.environment)))
    except OSError as error:
        raise OptionError(f"the baseline {folder} cannot be written: {error}") from None
    return sorted(figures.keys() - measured.keys())


def _text(data: Any) -> str:
    return json.dumps(data, indent=2, sort_keys=True) + "\n"
