"""What a bind did: segments, nodes left to MXNet with the reason, weights, times."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

__all__ = ["LeftNode", "Report", "SegmentReport", "last_report", "publish"]

# So many builds are told of one by one.
_MOST_TOLD = 3


@dataclass(slots=True)
class SegmentReport:
    """One segment.

    Attributes:
        name: Name of its engine node.
        nodes: Names of the MXNet nodes that the engine runs.
        inputs: Name and type of every input, such as ``"data float32[1x3x224x224]"``.
        outputs: The same of every output.
        weight_bytes: Bytes of the weights that the engine owns.
        build_seconds: Time of its engine builds so far, 0.0 while none is built.
        built: Whether the engine exists.
        notes: What a person should know of the engine.
    """

    name: str
    nodes: list[str]
    inputs: list[str]
    outputs: list[str]
    weight_bytes: int
    build_seconds: float = 0.0
    built: bool = False
    notes: list[str] = field(default_factory=list)


@dataclass(slots=True)
class LeftNode:
    """A node that stays in MXNet, and why.

    Attributes:
        name: Its name.
        op: Its operator.
        reason: Why it stays.
        slower: Whether an engine could run it, and it stays because MXNet computes it faster.
    """

    name: str
    op: str
    reason: str
    slower: bool = False


@dataclass(slots=True)
class Report:
    """What a bind did.

    Attributes:
        engine: Engine in use with its version, ``"none"`` when the graph was left alone.
        reason: Why the whole graph was left alone; empty otherwise.
        segments: The segments, in the order in which they run.
        left: Operator nodes that stay in MXNet.
        partition_seconds: Time to partition and convert.
        released_bytes: Bytes of weights that left MXNet's memory: paged out, or moved off the GPU.
        notes: Whatever else a person should know.
        building: What is being built in the background now; MXNet answers meanwhile.
    """

    engine: str
    reason: str = ""
    segments: list[SegmentReport] = field(default_factory=list)
    left: list[LeftNode] = field(default_factory=list)
    partition_seconds: float = 0.0
    released_bytes: int = 0
    notes: list[str] = field(default_factory=list)
    building: list[str] = field(default_factory=list)

    @property
    def nodes_in_engine(self) -> int:
        """Number of MXNet nodes that engines run."""
        return sum(len(segment.nodes) for segment in self.segments)

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights that moved into engines."""
        return sum(segment.weight_bytes for segment in self.segments)

    @property
    def build_seconds(self) -> float:
        """Time of the engine builds."""
        return sum(segment.build_seconds for segment in self.segments)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-ready data, totals included."""
        return {
            **dataclasses.asdict(self),
            "nodes_in_engine": self.nodes_in_engine,
            "weight_bytes": self.weight_bytes,
            "build_seconds": self.build_seconds,
        }

    def __str__(self) -> str:
        if self.reason:
            return f"left to MXNet: {self.reason}"
        lines = [
            f"engine {self.engine}: {len(self.segments)} segments, {self.nodes_in_engine} nodes in "
            f"engines, {len(self.left)} left in MXNet; {self.weight_bytes / 2**20:.1f} MiB of "
            f"weights moved; partition {self.partition_seconds:.2f} s, "
            f"build {self.build_seconds:.2f} s"
        ]
        reasons = Counter((node.op, node.reason) for node in self.left)
        lines += [f"  {n} x {op}: {reason}" for (op, reason), n in sorted(reasons.items())]
        lines += [f"  note: {s.name}: {note}" for s in self.segments for note in s.notes]
        lines += [f"  note: {note}" for note in self.notes]
        building = list(self.building)
        lines += [f"  being built: {what}" for what in building[:_MOST_TOLD]]
        if more := building[_MOST_TOLD:]:
            lines.append(f"  being built: {len(more)} more")
        return "\n".join(lines)


_last: Report | None = None


def publish(report: Report) -> Report:
    """Make a report the one that :func:`last_report` returns; returns it."""
    global _last
    _last = report
    return report


def last_report() -> Report | None:
    """The report of this process's last bind with the integration on; None before the first.

    A bind whose weights come later (``simple_bind``, ``Module``) reports its segments at once;
    build times and released bytes appear in the same object after the first forward.
    """
    return _last
