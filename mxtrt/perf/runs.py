"""A run of the suites: what ``RUN.json`` holds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mxtrt.errors import OptionError
from mxtrt.timing.paired import Paired

__all__ = ["EXTRA", "Benchmark", "Run", "read_run"]

#: Where pytest-benchmark's JSON holds what is ours: in it, in ``extra_info`` and ``machine_info``.
EXTRA = "mxtrt"


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One benchmark of a run.

    Attributes:
        counters: What was counted, by name.
        paired: What was measured; None where only counters were asked for.
        facts: What else a person may read, by name.
    """

    counters: Mapping[str, float] = field(default_factory=dict)
    paired: Paired | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """What :meth:`of` reads."""
        return {
            "counters": dict(self.counters),
            "paired": self.paired.to_dict() if self.paired else None,
            "facts": dict(self.facts),
        }

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Benchmark:
        """A benchmark from what :meth:`to_dict` made of it."""
        measured = data.get("paired")
        return cls(
            data.get("counters", {}),
            Paired(**measured) if measured else None,
            data.get("facts", {}),
        )


@dataclass(frozen=True, slots=True)
class Run:
    """A run of the suites.

    Attributes:
        time: When it was, ISO 8601.
        commit: The commit that was measured, empty if unknown.
        environment: The machine, see :func:`mxtrt.perf.machine.environment`.
        benchmarks: By name, such as ``"zoo/resnet18_v1/1"``.
        suites: The suites that were asked for, None for all.
        passed_over: Benchmarks of theirs that were not asked for.
    """

    time: str
    commit: str
    environment: Mapping[str, Any]
    benchmarks: Mapping[str, Benchmark]
    suites: frozenset[str] | None = None
    passed_over: frozenset[str] = frozenset()

    @property
    def key(self) -> str:
        """Name of the baseline's folder."""
        return str(self.environment["key"])

    def was_asked_for(self, name: str) -> bool:
        """Whether it was to have a benchmark of this name."""
        in_suites = self.suites is None or name.split("/")[0] in self.suites
        return in_suites and name not in self.passed_over

    def joined(self, later: Iterable[Run]) -> Run:
        """This run with the benchmarks of later ones in the place of its own."""
        benchmarks = dict(self.benchmarks)
        for run in later:
            if run.key != self.key:
                raise OptionError(f"runs of two machines do not join: {self.key} and {run.key}")
            benchmarks.update(run.benchmarks)
        return replace(self, benchmarks=benchmarks)


def read_run(path: Path) -> Run:
    """A run from a file that ``nox -s bench`` wrote.

    Raises:
        OptionError: The file cannot be read, or is no such run.
    """
    try:
        data = json.loads(path.read_text())
        found = {
            entry["name"]: Benchmark.of(entry["extra_info"][EXTRA])
            for entry in data["benchmarks"]
            if EXTRA in entry["extra_info"]
        }
        environment = data["machine_info"][EXTRA]
        time, commit = data["datetime"], (data.get("commit_info") or {}).get("id") or ""
        asked = data.get(EXTRA, {})
        suites = frozenset(asked["suites"]) if "suites" in asked else None
        passed_over = frozenset(asked.get("passed_over", ()))
    except OSError as error:
        raise OptionError(f"the run {path} cannot be read: {error}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise OptionError(
            f"{path} is no run of nox -s bench ({type(error).__name__}: {error})"
        ) from None
    return Run(time, commit, environment, found, suites, passed_over)
