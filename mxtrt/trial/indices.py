"""Lengths and indices among the values of a graph.

Many of MXNet's kernels take them as they are, and read or write where they point to: whoever makes
values up for a graph has to keep them in range.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mxtrt.convert.ops import registry
from mxtrt.errors import EngineError
from mxtrt.graph.symbol import Entry, Graph, Node

__all__ = ["IndicesError", "Place", "keep_in_range", "places", "reached"]

Array = np.ndarray[Any, Any]

#: Families of operators whose results are indices where what they read is.
_FAMILIES = frozenset({"broadcast", "cast", "elementwise"})

#: Numbers that lengths and indices may be computed of, where what is at hand leads out of range.
_PLAIN = (1, 0, 2)


class IndicesError(EngineError):
    """No values are known with which the lengths and indices of a graph are in range."""


@dataclass(frozen=True, slots=True)
class Place:
    """An input of an operator that holds lengths or indices.

    Attributes:
        entry: What it reads.
        low: The least that is in range.
        high: The most that is in range.
        cut: MXNet brings what is out of range into it.
        regions: They are the first of every five numbers; the others are corners in pixels.
    """

    entry: Entry
    low: int
    high: int
    cut: bool = False
    regions: bool = False

    def takes(self, values: Array) -> bool:
        """Whether values are in range, cut off behind the point."""
        seen = values[..., 0] if self.regions else values
        whole = np.trunc(seen)
        return bool(np.all((whole >= self.low) & (whole <= self.high)))


def places(graph: Graph) -> list[Place]:
    """Every input of lengths or indices, in the order of the graph's nodes."""
    return [place for node in graph.nodes for place in _of_node(graph, node)]


def _of_node(graph: Graph, node: Node) -> Iterator[Place]:
    entry = registry().get(node.op)
    found = None if entry is None else _READERS.get(_own(node.op))
    if found is None:
        return
    place, limits = found
    shapes = [graph.type_of(read).shape for read in node.inputs]
    if len(shapes) > place and all(shape for shape in shapes):
        low, high = limits(node, [tuple(shape or ()) for shape in shapes])
        own = _own(node.op)
        regions = own == "_contrib_ROIAlign"
        yield Place(node.inputs[place], low, max(high, low), own in _CUT, regions)


_Limits = Callable[[Node, Sequence[tuple[int, ...]]], tuple[int, int]]


def _number(node: Node, key: str, default: int) -> int:
    text = node.attrs.get(key, "None")
    return default if text == "None" else int(text)


def _lengths(low: int, axis: int = 0) -> _Limits:
    return lambda node, shapes: (low, shapes[0][_number(node, "axis", axis)])


def _along(axis: int) -> _Limits:
    return lambda node, shapes: (0, shapes[0][_number(node, "axis", axis)] - 1)


def _first_axes(node: Node, shapes: Sequence[tuple[int, ...]]) -> tuple[int, int]:
    return 0, min(shapes[0][: shapes[1][0]]) - 1


#: Operators, the input that holds lengths or indices, and what is in range.
_READERS: Mapping[str, tuple[int, _Limits]] = {
    "SequenceMask": (1, _lengths(0)),
    "SequenceReverse": (1, _lengths(0)),
    "SequenceLast": (1, _lengths(1)),
    "softmax": (1, _lengths(0, -1)),
    "log_softmax": (1, _lengths(0, -1)),
    "softmin": (1, _lengths(0, -1)),
    "take": (1, _along(0)),
    "pick": (1, _along(-1)),
    "batch_take": (1, lambda node, shapes: (0, shapes[0][1] - 1)),
    "gather_nd": (1, _first_axes),
    "one_hot": (0, lambda node, shapes: (0, _number(node, "depth", 1) - 1)),
    "Embedding": (0, lambda node, shapes: (0, shapes[1][0] - 1)),
    "_contrib_index_copy": (1, lambda node, shapes: (0, shapes[0][0] - 1)),
    "_contrib_ROIAlign": (1, lambda node, shapes: (0, shapes[0][0] - 1)),
}


#: Those whose kernels clip or wrap (TakeZeroAxisCPU, pick, batch_take and one_hot in MXNet's
#: src/operator/tensor/indexing_op.* and broadcast_reduce_op.h).
_CUT = frozenset({"take", "pick", "batch_take", "one_hot", "Embedding"})


def _own(op: str) -> str:
    """The name in the table of an operator that several interfaces have."""
    names = {"choose_element_0index": "pick", "_npx_sequence_mask": "SequenceMask"}
    return names.get(
        op, op.removeprefix("_npx_").removeprefix("_npi_").replace("embedding", "Embedding")
    )


def reached(graph: Graph, found: Iterable[Place]) -> dict[str, list[Place]]:
    """Variables that lengths or indices are computed of by moving, casting and arithmetic.

    Args:
        graph: The graph.
        found: Its places.

    Returns:
        The places that each of them leads to, by its name.
    """
    variables: dict[str, list[Place]] = {}
    for place in found:
        seen: set[int] = set()
        todo = [place.entry.node]
        while todo:
            index = todo.pop()
            if index in seen:
                continue
            seen.add(index)
            node = graph.nodes[index]
            if node.is_variable:
                variables.setdefault(node.name, []).append(place)
                continue
            known = registry().get(node.op)
            family = "" if known is None else known.convert.__module__.rpartition(".")[2]
            if known is not None and (known.moves_data_only or family in _FAMILIES):
                todo += [e.node for i, e in enumerate(node.inputs) if i not in known.shape_only]
    return variables


def keep_in_range(
    graph: Graph,
    values: Mapping[str, Array],
    fixed: Iterable[str],
    compute: Callable[[Entry, Mapping[str, Array]], Array],
) -> dict[str, Array]:
    """Values for a graph with which all its lengths and indices are in range.

    Args:
        graph: The graph.
        values: A value for every variable; what leads out of range is replaced.
        fixed: Names of the variables that keep theirs.
        compute: The value of an entry, for values of the variables.

    Raises:
        IndicesError: No such values were found, nor any with which MXNet brings all into range.
    """
    found = places(graph)
    variables = reached(graph, found)
    changing = {name: variables[name] for name in variables.keys() - set(fixed)}
    random = np.random.default_rng(2)
    drawn = {name: _draw(random, values[name], led) for name, led in sorted(changing.items())}
    plain = ({name: np.full_like(values[name], n) for name in changing} for n in _PLAIN)
    ways = [{**values, **other} for other in ({}, drawn, *plain)]
    uncut = [place for place in found if not place.cut]
    for asked in (found, uncut) if len(uncut) < len(found) else (found,):
        for tried in ways:
            # In order: what is computed behind an operator is asked for when that reads no more
            # amiss.
            if all(place.takes(compute(place.entry, tried)) for place in asked):
                return tried
    raise IndicesError(
        "its lengths or indices depend on its data, and random ones are out of range"
    )


def _draw(random: np.random.Generator, like: Array, led: Sequence[Place]) -> Array:
    low, high = max(place.low for place in led), min(place.high for place in led)
    if any(place.regions for place in led) and like.shape[-1] == 5:
        regions = np.sort(random.integers(0, 32, like.shape), axis=-1)
        regions[..., 3:] += 1
        regions[..., 0] = random.integers(0, high + 1, like.shape[:-1])
        return regions.astype(like.dtype)
    return random.integers(low, max(high, low) + 1, like.shape).astype(like.dtype)
