"""Comparing engines with MXNet when they are built (option ``verify``).

Every segment runs once in its engine and in MXNet's operators, on the data of the bind where
there are any and on random numbers otherwise.  How far the two may be apart is not fixed but
measured: MXNet answers again to inputs and weights that are moved by rounding noise.  A segment
that is further apart is cut shorter by bisection until one more node makes the difference; that
node goes back to MXNet.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mxtrt.errors import RefusedNodesError, Unsupported
from mxtrt.graph.symbol import Entry, Graph
from mxtrt.plain.loading import mxnet_reason
from mxtrt.trial.indices import IndicesError, places, reached
from mxtrt.trial.segment import Array, operators, run_engine, values_for

if TYPE_CHECKING:
    from mxtrt.plan.engine_node import EngineNode

__all__ = ["UNITS", "Expected", "verify"]

_log = logging.getLogger("mxtrt")

#: Unit roundoffs of the arithmetic that each precision asks for.
UNITS = {"fp32": 2.0**-24, "tf32": 2.0**-11, "fp16": 2.0**-11}
#: Standard deviation of the noise, in roundoffs: every layer rounds once or twice.
_ROUNDINGS = 8.0
_SAMPLES = 8
#: How many standard deviations, and roundoffs of the largest number, an answer may be off.
_DEVIATIONS = 8.0


def verify(node: EngineNode, arrays: Mapping[str, Any]) -> None:
    """Compare an engine with MXNet.

    MXNet's operators run on copies of the segment's weights, which are gone afterwards.

    Args:
        node: An engine node whose engine is built.
        arrays: NDArrays of the segment's weights, and of its data where these are known.

    Raises:
        RefusedNodesError: They are too far apart; the node that makes the difference is named.
    """
    unit = UNITS.get(node.precision)
    if unit is None:
        node.report.notes.append(f"not verified: precision {node.precision} rounds as calibrated")
        return
    from mxnet.base import MXNetError

    try:
        values = values_for(node.graph, node.inputs, arrays)
        expected = Expected(node.graph, node.graph.heads, values, unit, node.gpu)
    except MXNetError as error:  # a GPU that MXNet has no kernels for
        node.report.notes.append(f"not verified: MXNet does not run it: {mxnet_reason(error)}")
        return
    except IndicesError as error:
        node.report.notes.append(f"not verified: {error}")
        return
    distance = expected.distance(node.graph.heads, run_engine(node, values))
    if distance <= 1:
        node.report.notes.append(f"verified: {distance:.2g} of the tolerance from MXNet")
        return
    guilty, distance = _bisect(node, arrays, values, unit, distance)
    name = node.graph.nodes[guilty].name
    reason = f"verify: with it the engine is {distance:.3g} tolerances from MXNet's answer"
    _log.warning("%s stays in MXNet: %s", name, reason)
    raise RefusedNodesError({name: reason})


class Expected:
    """MXNet's answers, and how far they move.

    Args:
        graph: A segment.
        entries: The entries to answer.
        values: Values of its variables.
        unit: Unit roundoff of the engine's arithmetic.
        gpu: Where to run.
        samples: How often MXNet answers to moved numbers.  Few of them tell what the noise is all
            over an output, and not what it is at each of its numbers.
    """

    def __init__(
        self,
        graph: Graph,
        entries: Sequence[Entry],
        values: Mapping[str, Array],
        unit: float,
        gpu: int | None,
        samples: int = _SAMPLES,
    ) -> None:
        import mxnet as mx

        compute, arrays = operators(graph, entries, values, gpu)
        still = reached(
            graph, places(graph)
        ).keys()  # lengths and indices are whole numbers: no noise on them

        def forward() -> list[Array]:
            return [output.asnumpy() for output in compute()]

        self._unit, self._samples = unit, samples
        self._entries = {entry: place for place, entry in reversed(list(enumerate(entries)))}
        self._right = forward()
        self._squares = [np.zeros(head.shape) for head in self._right]
        random = np.random.default_rng(1)
        for _ in range(samples):
            for name, old in arrays.items():
                array = values[name]
                if array.dtype.kind == "f" and name not in still:
                    noise = random.standard_normal(array.shape) * (unit * _ROUNDINGS)
                    moved = mx.nd.array(array * (1 + noise), dtype=array.dtype, ctx=old.context)
                    moved.copyto(old)  # a copy also works where the old array is in oneDNN's layout
            with np.errstate(invalid="ignore", over="ignore"):
                for total, head, sample in zip(self._squares, self._right, forward(), strict=True):
                    total += np.square(sample.astype(np.float64) - head)

    def distance(self, entries: Sequence[Entry], answers: Sequence[Array]) -> float:
        """How far answers are from MXNet's, in tolerances."""
        worst = 0.0
        for entry, answer in zip(entries, answers, strict=True):
            place = self._entries[entry]
            right, variance = self._right[place], self._squares[place] / self._samples
            if answer.shape != right.shape or answer.dtype != right.dtype:
                return float("inf")
            # Where MXNet's answer, with or without noise, is not finite, any answer is accepted.
            sure = np.isfinite(right) & np.isfinite(variance)
            if not sure.any():
                continue
            off = np.abs(answer.astype(np.float64) - right)
            if right.dtype.kind != "f":
                worst = max(worst, float("inf") if np.any(off[sure & (variance == 0)]) else 0.0)
                continue
            variance = np.where(sure, variance, 0)
            if variance.ndim:
                axes = -1 if self._samples == _SAMPLES else None
                variance = np.maximum(variance, variance.mean(axes, keepdims=True))
            largest = max(float(np.abs(right[sure]).max()), 1e-30)
            unit = max(self._unit, float(np.finfo(right.dtype).eps) / 2)
            limit = _DEVIATIONS * (np.sqrt(variance) + 2 * unit * largest)
            # NaN from the engine where MXNet has a number counts as infinitely far.
            worst = max(worst, float(np.nan_to_num((off / limit)[sure], nan=np.inf).max()))
        return worst


def _bisect(
    node: EngineNode,
    arrays: Mapping[str, Any],
    values: Mapping[str, Array],
    unit: float,
    distance: float,
) -> tuple[int, float]:
    """The node with which a segment goes wrong, and how far its answer is off then."""
    graph = node.graph
    operators = [index for index, one in enumerate(graph.nodes) if not one.is_variable]
    entries = [Entry(i, k) for i in operators for k in range(len(graph.nodes[i].types))]
    expected = Expected(graph, entries, values, unit, node.gpu)
    right, wrong = (
        0,
        len(operators),
    )  # with so many first nodes the engine is right, with so many wrong
    while wrong - right > 1:
        half = (right + wrong) // 2
        heads = _heads(graph, operators[:half])
        cut, _ = graph.subgraph(operators[:half], heads)
        try:
            engine = node.part(cut)
            engine.build(arrays)
            seen = expected.distance(heads, run_engine(engine, values)) if engine.inputs else 0.0
        except (RefusedNodesError, Unsupported):
            seen = float("inf")
        if seen <= 1:
            right = half
        else:
            wrong, distance = half, seen
    return operators[wrong - 1], distance


def _heads(graph: Graph, members: Sequence[int]) -> list[Entry]:
    """What is read of some nodes by others, or by nobody but the symbol."""
    inside = set(members)
    read = {
        entry
        for index, one in enumerate(graph.nodes)
        if index not in inside
        for entry in one.inputs
        if entry.node in inside
    }
    return sorted(read | {head for head in graph.heads if head.node in inside})
