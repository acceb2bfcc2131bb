"""The input shapes that the options ask for: ``shapes`` and ``batch_profile``."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from mxtrt.config import Options
from mxtrt.convert.segment import OnnxSegment
from mxtrt.engines.ranges import Profile, Ranges, Symbol
from mxtrt.errors import EngineError
from mxtrt.graph.symbol import Entry, Graph, Shapes, with_shapes
from mxtrt.plain.loading import mxnet_reason
from mxtrt.plan.learned import Fits, Learned, divided

__all__ = ["Wanted", "middle", "wanted_batches", "wanted_shapes"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Input shapes of a segment that its first engine is to serve, whatever the bind's are.

    Attributes:
        option: The option that asks for them.
        smallest: The smallest size of every axis.
        usual: What the engine is to be the fastest at, or what lies in the middle.
        largest: The largest size of every axis.
        is_one: Whether they are one profile, because the usual ones were said.
        others: More of them, which tell apart axes that need not be of one size.
        batches: The smallest and the largest batch size where the option is ``batch_profile``.
    """

    option: str
    smallest: Shapes
    usual: Shapes
    largest: Shapes
    is_one: bool
    others: tuple[Shapes, ...] = ()
    batches: tuple[int, int] | None = None

    def check(self, shapes: Shapes) -> None:
        """See that input shapes are among them.

        Raises:
            EngineError: They are not.
        """
        if Profile(self.smallest, self.smallest, self.largest).contains(shapes):
            return
        if self.batches is not None:
            smallest, largest = self.batches
            batch = shapes[0][0] if shapes and shapes[0] else 0
            if not smallest <= batch <= largest:
                raise EngineError(
                    f"batch size {batch} is outside batch_profile {smallest} to {largest}; "
                    "widen the option to run it in the engine"
                )
        told = " and ".join(map(str, shapes))
        ends = " and ".join(map(str, self.smallest)), " and ".join(map(str, self.largest))
        raise EngineError(
            f"input shapes {told} are outside of option {self.option}, which takes {ends[0]} to "
            f"{ends[1]} here; widen the option to run them in the engine"
        )

    def show(self, at: Callable[[Shapes], object]) -> None:
        """Have a segment find its model for all of them.

        Args:
            at: Makes the model at input shapes; what it raises is passed on.
        """
        for shapes in (self.usual, self.largest, self.smallest, *self.others):
            at(shapes)

    def ranges(self, tied: Sequence[Symbol], fits: Fits) -> Ranges | None:
        """The ranges for an engine, None where nothing varies.

        Args:
            tied: Axes that the model takes to be alike.
            fits: Whether the model is for input shapes.
        """
        seen = Learned(self.smallest)
        for shapes in (self.usual, self.largest, *self.others):
            seen.see(shapes)
        symbols = seen.symbols(tied)
        if not symbols:
            return None
        if self.is_one:
            return Ranges((Profile(self.smallest, self.usual, self.largest),), symbols)
        return divided(self.smallest, self.largest, symbols, [], fits)


def middle(smallest: int, usual: int, largest: int) -> int:
    """What a range of the option ``shapes`` has for its usual size."""
    return usual or round(math.sqrt(smallest * largest))


def wanted_batches(sizes: Collection[int], shapes: Shapes) -> Wanted | None:
    """What the option ``batch_profile`` asks for.

    Args:
        sizes: Smallest, usual and largest batch size, or nothing.
        shapes: The input shapes of a segment at the bind.
    """
    if not sizes or not shapes or not all(s and s[0] == shapes[0][0] for s in shapes):
        return None
    smallest, usual, largest = sizes
    low, most, high = (
        tuple((batch, *shape[1:]) for shape in shapes) for batch in (smallest, usual, largest)
    )
    return Wanted("batch_profile", low, most, high, True, batches=(smallest, largest))


def wanted_shapes(
    options: Options,
    graph: Graph,
    weights: Collection[str],
    segments: Sequence[tuple[Sequence[Entry], OnnxSegment]],
) -> tuple[list[Wanted | None], str]:
    """What the option ``shapes`` asks for, by segment: MXNet infers what its inputs are.

    Args:
        options: The options of the bind.
        graph: The whole graph with its shapes.
        weights: Names of its weights.
        segments: The inputs of every segment, and its model.

    Returns:
        For every segment the input shapes, None where it has no ranges; and why the option has no
        effect, empty where it has.

    Raises:
        EngineError: The bind has other shapes.
    """
    nothing: list[Wanted | None] = [None] * len(segments)
    given = dict(options.shapes)
    own = {
        node.name: node.types[0].shape
        for node in graph.nodes
        if node.is_variable and node.types and node.types[0].shape is not None
    }
    data = [name for name in own if name not in weights]
    if not given or not given.keys() & set(data):
        return nothing, ""  # it is for another graph
    missing = [name for name in given if name not in data]
    if missing:
        return nothing, (
            f"option shapes has no effect here: it names {missing[0]!r}, which is no input of the "
            f"graph; its inputs are {', '.join(data)}"
        )
    for name, sizes in given.items():
        shape = own[name] or ()
        if len(sizes) != len(shape):
            return nothing, (
                f"option shapes has no effect here: it gives {name!r} {len(sizes)} axes, expected "
                f"{len(shape)}, as its shape {shape} has"
            )
        if not all(a <= size <= c for (a, _, c), size in zip(sizes, shape, strict=True)):
            raise EngineError(
                f"input {name!r} has shape {shape}, outside of option shapes, which takes "
                f"{','.join(f'{a}-{c}' for a, _, c in sizes)}; widen the option to run it in an "
                "engine"
            )
    from mxnet.base import MXNetError

    known = {name: shape for name, shape in own.items() if shape is not None}
    low, usual, high = (
        {name: tuple(map(size, sizes)) for name, sizes in given.items()}
        for size in (lambda one: one[0], lambda one: middle(*one), lambda one: one[2])
    )
    try:
        ends = [_inputs_at(graph, known, at, weights, segments) for at in (low, usual, high)]
    except (EngineError, MXNetError) as error:
        return nothing, f"option shapes has no effect here: {mxnet_reason(error)}"
    others: list[list[Shapes]] = []
    for name, sizes in given.items():
        for axis in range(len(sizes)):
            alone = (*usual[name][:axis], high[name][axis], *usual[name][axis + 1 :])
            with contextlib.suppress(EngineError, MXNetError):  # it goes together with another one
                at = {**usual, name: alone}
                if alone != usual[name]:
                    others.append(_inputs_at(graph, known, at, weights, segments))
    is_one = any(most and least < top for sizes in given.values() for least, most, top in sizes)
    wanted: list[Wanted | None] = []
    for place, (least, most, top) in enumerate(zip(*ends, strict=True)):
        more = tuple(shapes[place] for shapes in others)
        one = Wanted("shapes", least, most, top, is_one, more)
        wanted.append(one if least != top else None)
    return wanted, ""


def _inputs_at(
    graph: Graph,
    known: Mapping[str, tuple[int, ...]],
    shapes: Mapping[str, tuple[int, ...]],
    weights: Collection[str],
    segments: Sequence[tuple[Sequence[Entry], OnnxSegment]],
) -> list[Shapes]:
    """The input shapes of segments at shapes of the graph's inputs.

    Raises:
        EngineError: MXNet does not accept the shapes.
    """
    from mxnet.base import MXNetError

    fixed = {name: shape for name, shape in known.items() if name in weights}
    try:
        at = with_shapes(graph, {**fixed, **shapes})  # others follow, such as labels
    except (EngineError, MXNetError):
        at = with_shapes(graph, {**known, **shapes})
    made = []
    for inputs, _ in segments:
        found = [at.type_of(entry).shape for entry in inputs]
        made.append(tuple(shape for shape in found if shape is not None))
    return made
