"""What has to hold for every run besides the answers: cover, order, heads and memory."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from math import prod

import numpy as np

from mxtrt.convert.ops import registry
from mxtrt.graph.partition import SMALL_WEIGHT
from mxtrt.weights.paging import SMALLEST
from mxtrt_fuzz.execute import Run
from mxtrt_fuzz.graphs import Case, Operation, Variable

__all__ = ["ledger", "partition_faults"]

_PAGE = 4096


def partition_faults(case: Case, run: Run) -> Iterator[tuple[str, str]]:
    """What is wrong with a partition, as symptom and detail.

    Every operator is in exactly one segment or left in MXNet (one whose value is known at bind:
    wherever it is read), a denied one is left, and the graph with its segments contracted has no
    cycle.  Nothing is left that an engine could have run: no two segments of which one reads the
    other could be one, and what is left only because of its neighbours has such neighbours.
    """
    names = [node.name for node in case.operations]
    known = {case.nodes[index].name for index in _known(case)}
    seen = [name for segment in run.segments for name in segment] + [*run.left]
    once = [name for name in seen if name not in known]
    if sorted(once) != sorted(set(names) - known):
        yield "cover", f"nodes {sorted(names)} became {sorted(seen)}"
        return
    inside = {name for segment in run.segments for name in segment}
    for node in case.operations:
        if node.op in run.denied and node.name in inside:
            yield "denied", f"{node.op} is denied and runs in an engine"
    if _has_cycle(case, run.segments):
        yield "cycle", f"segments {run.segments} read each other"
        return
    for one, two in itertools.combinations(range(len(run.segments)), 2):
        rest = [s for place, s in enumerate(run.segments) if place not in (one, two)]
        both = [*run.segments[one], *run.segments[two]]
        if _reads(case, run.segments[two], run.segments[one]) and not _has_cycle(
            case, [*rest, both]
        ):
            yield "split", f"segments {run.segments[one]} and {run.segments[two]} could be one"
            return
    for node in case.operations:
        reason = run.left.get(node.name, "")
        if reason.startswith(_MOVES) and not registry()[node.op].moves_data_only:
            yield "missed", f"{node.name} ({node.op}) computes and stays in MXNet: {reason}"
        first = case.nodes[node.inputs[0].node] if node.inputs else None  # others may be labels
        reads = isinstance(first, Variable) and first.role == "data"
        if reason.startswith(_NO_INPUT) and reads:
            yield "missed", f"{node.name} ({node.op}) reads data and stays in MXNet: {reason}"


# How reasons begin that are about a whole segment (mxtrt/graph/partition.py).
_MOVES, _NO_INPUT = "its segment only moves data", "its segment has no input but weights"


def _reads(case: Case, segment: Collection[str], other: Collection[str]) -> bool:
    """Whether a node of a segment reads one of another segment."""
    return any(
        case.nodes[entry.node].name in other
        for node in case.operations
        if node.name in segment
        for entry in node.inputs
    )


def _known(case: Case) -> set[int]:
    """Operations whose values depend on nothing but shapes."""
    known: set[int] = set()
    for index, node in enumerate(case.nodes):
        entry = registry().get(node.op) if isinstance(node, Operation) else None
        if isinstance(node, Operation) and entry is not None:
            reads = [e for place, e in enumerate(node.inputs) if place not in entry.shape_only]
            if all(e.node in known for e in reads):
                known.add(index)
    return known


def _has_cycle(case: Case, segments: Sequence[Sequence[str]]) -> bool:
    """Whether contracted segments read each other."""
    unit = {name: f"segment {i}" for i, names in enumerate(segments) for name in names}
    known = _known(case)
    waits: list[set[str]] = []  # for every node, where known nodes are looked through
    reads: dict[str, set[str]] = {}
    for index, node in enumerate(case.nodes):
        waits.append(set())
        if isinstance(node, Variable):
            continue
        for entry in node.inputs:
            producer = case.nodes[entry.node]
            if entry.node in known:
                waits[index] |= waits[entry.node]
            elif isinstance(producer, Operation):
                waits[index].add(unit.get(producer.name, producer.name))
        own = unit.get(node.name, node.name)
        if index not in known and (others := waits[index] - {own}):
            reads.setdefault(own, set()).update(others)
    done: set[str] = set()
    while reads:
        ready = [name for name, others in reads.items() if not (others & reads.keys()) - done]
        if not ready:
            return True
        for name in ready:
            del reads[name]
            done.add(name)
    return False


def ledger(case: Case, run: Run) -> Iterator[tuple[str, str]]:
    """What is wrong with a run's memory by mxtrt's own report, as symptom and detail.

    MXNet's weights, less those released, plus those of the engines may exceed plain MXNet's
    only by what mxtrt leaves in place on purpose: small arrays, and parts of pages.
    """
    sizes = {v.name: _nbytes(v) for v in case.variables if v.role != "data"}
    plain = sum(sizes.values())
    readers = _engine_weights(case, run)
    slack = sum(
        size * max(readers.get(name, 1), 1) if size < SMALLEST else 2 * _PAGE
        for name, size in sizes.items()
    )
    held = plain - run.released_bytes + run.weight_bytes
    needed = sum(
        sizes[name] * (count if sizes[name] < SMALL_WEIGHT else 1)
        for name, count in readers.items()
    )
    if run.weight_bytes > needed:
        yield (
            "twice",
            f"engines hold {run.weight_bytes} B where the weights they read have {needed}",
        )
    elif held > plain + slack:
        yield "resident", f"{held} B of weights are resident where plain MXNet holds {plain} B"
    if run.released_bytes > run.weight_bytes:
        yield "released", f"{run.released_bytes} B released of {run.weight_bytes} B in engines"


def _engine_weights(case: Case, run: Run) -> Mapping[str, int]:
    """Weights that some node in a segment reads, and in how many segments."""
    place = {name: i for i, segment in enumerate(run.segments) for name in segment}
    reads = {
        (producer.name, place[node.name])
        for node in case.operations
        if node.name in place
        for producer in (case.nodes[entry.node] for entry in node.inputs)
        if isinstance(producer, Variable) and producer.role != "data"
    }
    return Counter(name for name, _ in reads)


def _nbytes(variable: Variable) -> int:
    return prod(variable.tensor.shape) * np.dtype(variable.tensor.dtype).itemsize
