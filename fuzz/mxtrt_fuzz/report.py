"""``fuzz-report.json``: how much was tried, how fast, what of it was covered, what was found."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mxtrt_fuzz.execute import Observation
from mxtrt_fuzz.graphs import Case, Operation
from mxtrt_fuzz.oracle import Verdict
from mxtrt_fuzz.signatures import Failure
from mxtrt_fuzz.specs import specs

__all__ = ["Found", "FuzzReport"]


@dataclass(slots=True)
class Found:
    """One signature.

    Attributes:
        failure: The failure of the smallest case.
        case: The smallest case so far.
        count: How many cases showed it.
        where: Corpus folder, once it is written.
        open: Why it is known and not fixed yet; empty for anything else.
    """

    failure: Failure
    case: Case
    count: int = 1
    where: str = ""
    open: str = ""


@dataclass(slots=True)
class FuzzReport:
    """Everything that a campaign counted; reports of several machines add up.

    Attributes:
        graphs: Cases that were run.
        invalid: Those that plain MXNet refused, by its reason.
        wall: Seconds of the campaign, all workers one after the other.
        seconds: Seconds of the hunts by what they went into; what a worker does while its hunt
            draws or judges costs none.
        operators: Cases by ``operator dtype``.
        edges: Cases by ``producer > consumer``.
        boundary: The same of edges between an engine and MXNet, and which side produces.
        sizes: Cases by number of operators.
        drawn: Cases by lane, by bind and by precision.
        again: Later calls of cases, by what was other, and those at sizes that MXNet does not take.
        elements: Elements compared in the lanes of ordinary numbers.
        undetermined: Elements that rounding decided.
        worst: Largest error of mxtrt in units of its limit.
        restarts: Worker processes that died.
        found: What was found, by signature.
        interrupted: Somebody ended the campaign before its time: what was found is not reduced.
        broken: Errors of hunts that ended with one of their own.
    """

    graphs: int = 0
    invalid: Counter[str] = field(default_factory=Counter)
    wall: float = 0.0
    seconds: Counter[str] = field(default_factory=Counter)
    operators: Counter[str] = field(default_factory=Counter)
    edges: Counter[str] = field(default_factory=Counter)
    boundary: Counter[str] = field(default_factory=Counter)
    sizes: Counter[str] = field(default_factory=Counter)
    drawn: Counter[str] = field(default_factory=Counter)
    again: Counter[str] = field(default_factory=Counter)
    elements: int = 0
    undetermined: int = 0
    worst: float = 0.0
    restarts: int = 0
    found: dict[str, Found] = field(default_factory=dict)
    interrupted: bool = False
    broken: list[str] = field(default_factory=list)

    def add(self, case: Case, seen: Observation, verdict: Verdict) -> None:
        """Count a case."""
        self.graphs += 1
        self.sizes[str(len(case.operations))] += 1
        binds = [step.how for step in case.story if step.what == "bind"] or [case.bind]
        self.drawn.update((f"lane {case.lane}", f"precision {case.precision}"))
        self.drawn.update(f"bind {how}" for how in binds)
        self.drawn.update(f"step {step.what}" for step in case.story)
        if verdict.invalid:
            self.invalid[verdict.invalid] += 1
            return
        self._add_again(case, seen)
        if case.lane in ("uniform", "grid"):  # overflow and NaN decide nothing there
            self.elements += verdict.elements
            self.undetermined += verdict.undetermined
        if verdict.worst <= 1:
            self.worst = max(self.worst, verdict.worst)
        self.operators.update({f"{n.op} {n.outputs[0].dtype}" for n in case.operations})
        edges = [
            (producer, node)
            for node in case.operations
            for producer in (case.nodes[e.node] for e in node.inputs)
            if isinstance(producer, Operation)
        ]
        self.edges.update({f"{one.op} > {two.op}" for one, two in edges})
        crossed = set()
        for run in seen.runs:
            inside = {name for segment in run.segments for name in segment}
            for one, two in edges:
                if (one.name in inside) != (two.name in inside):
                    side = "engine" if one.name in inside else "MXNet"
                    crossed.add(f"{one.op} > {two.op} out of {side}")
        self.boundary.update(crossed)

    def _add_again(self, case: Case, seen: Observation) -> None:
        """Count the later calls of a case."""
        if not case.calls:
            return
        called = [case.calls[answer.number] for answer in seen.again]
        sizes, weights = any(c.grown for c in called), any(c.written for c in called)
        self.again["cases with both"] += sizes and weights
        self.again["cases at other sizes"] += sizes
        self.again["cases with other weights"] += weights
        self.again["calls at other sizes"] += sum(bool(call.grown) for call in called)
        self.again["calls with other weights"] += sum(bool(call.written) for call in called)
        self.again["calls not taken"] += len(case.calls) - len(called) if seen.again else 0

    def record(self, case: Case, failure: Failure) -> None:
        """Count a failure, and keep the smallest case that shows it."""
        known = self.found.get(str(failure.signature))
        if known is None:
            self.found[str(failure.signature)] = Found(failure, case)
            return
        known.count += 1
        if _size(case) < _size(known.case):
            known.failure, known.case = failure, case

    @property
    def unexplained(self) -> dict[str, Found]:
        """What was found and is not known to be open."""
        return {name: found for name, found in self.found.items() if not found.open}

    @property
    def valid_rate(self) -> float:
        """Share of the cases that plain MXNet accepted."""
        return 1 - self.invalid.total() / max(self.graphs, 1)

    @property
    def graphs_per_second(self) -> float:
        """Cases per second of wall time."""
        return self.graphs / max(self.wall, 1e-9)

    @property
    def undetermined_share(self) -> float:
        """Share of the compared elements that rounding decides."""
        return self.undetermined / max(self.elements, 1)

    @property
    def uncovered(self) -> list[str]:
        """Operators with a specification that no valid case had."""
        seen = {key.split()[0] for key in self.operators}
        return sorted(set(specs()) - seen)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-ready data."""
        spent = sum(self.seconds.values()) or 1.0
        return {
            "graphs": self.graphs,
            "seconds": round(self.wall, 3),
            "interrupted": self.interrupted,
            "broken": self.broken,
            "graphs_per_second": round(self.graphs_per_second, 2),
            "median_operators": _median(self.sizes),
            "valid_rate": round(self.valid_rate, 5),
            "invalid": dict(self.invalid.most_common()),
            "time": {what: round(s / spent, 4) for what, s in self.seconds.most_common()},
            "elements": self.elements,
            "undetermined_share": self.undetermined_share,
            "worst_error_within_limit": self.worst,
            "worker_restarts": self.restarts,
            "drawn": dict(sorted(self.drawn.items())),
            "again": dict(sorted(self.again.items())),
            "coverage": {
                "operators": len({key.split()[0] for key in self.operators}),
                "of_operators": len(specs()),
                "uncovered": self.uncovered,
                "operator_dtypes": dict(sorted(self.operators.items())),
                "operator_edges": len(self.edges),
                "boundary_edges": len(self.boundary),
                "boundary_edge_counts": dict(self.boundary.most_common()),
            },
            "signatures": {
                name: {
                    "count": found.count,
                    "operators": len(found.case.operations),
                    "detail": found.failure.detail,
                    "corpus": found.where,
                    "open": found.open,
                }
                for name, found in sorted(self.found.items())
            },
        }

    def to_json(self) -> str:
        """The report as JSON text."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    def merge(self, other: FuzzReport) -> None:
        """Add what another campaign counted."""
        self.graphs += other.graphs
        self.wall += other.wall
        for name in (
            "invalid",
            "seconds",
            "operators",
            "edges",
            "boundary",
            "sizes",
            "drawn",
            "again",
        ):
            getattr(self, name).update(getattr(other, name))
        self.elements += other.elements
        self.undetermined += other.undetermined
        self.worst = max(self.worst, other.worst)
        self.restarts += other.restarts
        self.broken += other.broken
        for name, found in other.found.items():
            own = self.found.get(name)
            if own is None:
                self.found[name] = dataclasses.replace(found)
                continue
            own.count += found.count
            if _size(found.case) < _size(own.case):
                own.failure, own.case, own.where = found.failure, found.case, found.where


def _size(case: Case) -> tuple[int, int, int]:
    elements = sum(max(1, *v.tensor.shape) for v in case.variables)
    return len(case.operations), len(case.nodes) + len(case.heads), elements


def _median(sizes: Mapping[str, int]) -> int:
    ordered: Iterable[int] = sorted(int(s) for s, n in sizes.items() for _ in range(n))
    values = list(ordered)
    return values[len(values) // 2] if values else 0
