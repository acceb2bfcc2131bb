"""Engines for ranges of shapes answer requests only once their answers were compared with MXNet's.

What a build gave is compared once: an engine that comes from the cache was compared by the process
that kept it there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mxtrt.config import Options
from mxtrt.engines import Session
from mxtrt.engines.cache import EngineCache
from mxtrt.engines.ranges import Ranges
from mxtrt.errors import EngineError
from mxtrt.graph.symbol import Graph, Shapes
from mxtrt.plan.learned import Fits
from mxtrt.plan.variants import Reshaped

__all__ = ["Proofs", "WrongError", "compared_at"]


class WrongError(EngineError):
    """An engine answers otherwise than MXNet."""


class Proofs:
    """The engines of a node that were found right.

    Args:
        options: The options of the bind.

    Attributes:
        compare: Compares an engine for a node with MXNet at graphs with shapes, see
            :meth:`mxtrt.plan.plan.Check.ranges`; None where no engine has to pass.
    """

    def __init__(self, options: Options) -> None:
        self._cache = EngineCache(options.cache_dir, options.cache_size)
        self.compare: Callable[[Any, Session, Sequence[Graph]], None] | None = None

    def prove(
        self,
        node: object,
        session: Session,
        segment: Reshaped,
        ranges: Ranges,
        shapes: Shapes,
        model: str,
    ) -> None:
        """Compare an engine for ranges of shapes with MXNet, unless that was done before.

        Args:
            node: The engine node that it is to serve.
            session: The engine.
            segment: Its segment.
            ranges: What it is to serve.
            shapes: Some of these.
            model: Digest of its model.

        Raises:
            WrongError: It is not right.
        """
        kept = f"right-{session.content}" if session.content else ""
        if self.compare is None or (
            kept and (kept in _right or self._cache.load(kept) is not None)
        ):
            return
        places = compared_at(ranges, shapes, lambda at: segment.digest_at(at) == model)
        try:
            self.compare(node, session, [segment.graph_at(at) for at in places])
        except EngineError as error:
            raise WrongError(str(error)) from error
        if kept:
            _right.add(kept)
            self._cache.store(kept, b"")


_right: set[str] = set()


def compared_at(ranges: Ranges, shapes: Shapes, fits: Fits) -> list[Shapes]:
    """Input shapes at which an engine is compared: some, and for each profile one of odd sizes.

    What is wrong with an engine for open sizes shows where a size is no multiple of anything.

    Args:
        ranges: The input shapes that the engine is to serve.
        shapes: Some of them.
        fits: Whether the engine's model is for input shapes.
    """
    found = [shapes]
    for at in _odd(ranges):
        if at not in found and ranges.contains(at) and fits(at):
            found.append(at)
    return found


def _odd(ranges: Ranges) -> Iterator[Shapes]:
    first, *others = ranges.profiles
    yield _with(ranges, first.smallest, lambda size: max(size, 2) | 1)
    for profile in (first, *others):
        yield _with(ranges, profile.largest, lambda size: (size - 1) | 1)


def _with(ranges: Ranges, shapes: Shapes, change: Callable[[int], int]) -> Shapes:
    """Shapes with the sizes changed that vary, as far as the ranges go."""
    made = [list(shape) for shape in shapes]
    for i, axis in (place for symbol in ranges.symbols for place in symbol):
        size = change(made[i][axis])
        if ranges.smallest[i][axis] <= size <= ranges.largest[i][axis]:
            made[i][axis] = size
    return tuple(map(tuple, made))
