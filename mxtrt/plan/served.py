"""Which input shapes of a segment one engine serves: ranges that are given, or learned."""

from __future__ import annotations

import json
import logging
from typing import Any, Protocol

from mxtrt.convert.segment import OnnxSegment
from mxtrt.engines.ranges import Profile, Ranges
from mxtrt.errors import EngineError
from mxtrt.graph.symbol import Shapes
from mxtrt.plan.learned import Learned
from mxtrt.plan.proofs import WrongError
from mxtrt.plan.variants import Reshaped
from mxtrt.plan.wanted import Wanted

__all__ = ["Memory", "Served"]

_log = logging.getLogger("mxtrt")

# Engines for ranges that a segment gets before every further shape has one of its own.
_MOST_BUILDS = 8

_FORMAT = 1


class Memory(Protocol):
    """What is kept of a segment for the next process."""

    def load(self) -> bytes | None:
        """What was stored last."""

    def store(self, data: bytes) -> None:
        """Keep something."""


class Served:
    """The ranges of input shapes that engines of a segment serve.

    At first an engine serves the first input shapes alone.  From the second ones on there is one
    for ranges that contain all shapes that were seen; those outside of it widen it.

    Args:
        segment: The segment.
        model: Its model at its first input shapes.
        wanted: What the options ask for; None to learn.
        memory: What earlier processes learned.

    Attributes:
        first: The ranges for the first engine, None for its shapes alone.
        reason: Why every further shape gets an engine of its own; empty if that is not so.
        digest: Digest of the session that serves the present ranges, None while there is none.
    """

    def __init__(
        self, segment: Reshaped, model: OnnxSegment, wanted: Wanted | None, memory: Memory
    ) -> None:
        self._segment = segment
        self._memory = memory
        self._learned = Learned(segment.shapes)
        self._model = model.digest  # that ranges are looked for
        self._ranges: Ranges | None = None  # that were built, or are to be built first
        self._ranges_model = model.digest
        self._pending: Ranges | None = None  # that are to take their place
        self._builds = 0
        self._wanted = wanted
        self._tight = False
        self.digest: str | None = None
        self.reason = ""
        if wanted is not None:
            self._take(wanted)
        else:
            self._remember()
        self.first = self._ranges

    def ranges_for(self, shapes: Shapes, model: OnnxSegment) -> Ranges | None:
        """The ranges that the engine for input shapes is to serve; None for these alone.

        Args:
            shapes: The input shapes.
            model: The model at these.

        Raises:
            EngineError: They are outside of the ranges that the options ask for.
        """
        if self._wanted is not None:
            self._wanted.check(shapes)
            return self._ranges
        if not self._segment.is_shared(model) or not self._learned.see(shapes):
            return None
        if (ranges := self.containing(shapes, model)) is not None or self.reason:
            return ranges
        self._model = model.digest
        self._pending = self._widened()
        return self._pending

    def containing(self, shapes: Shapes, model: OnnxSegment) -> Ranges | None:
        """The ranges that there are, or are to be, for input shapes; None where they are outside.

        Args:
            shapes: The input shapes.
            model: The model at these.
        """
        now, pending = (self._ranges, self._ranges_model), (self._pending, self._model)
        for ranges, digest in (now, pending):
            if ranges is not None and digest == model.digest and ranges.contains(shapes):
                return ranges
        return None

    def check(self, shapes: Shapes) -> None:
        """See that input shapes are among those that the options ask for, if they ask for some.

        Raises:
            EngineError: They are not.
        """
        if self._wanted is not None:
            self._wanted.check(shapes)

    def refused(self, ranges: Ranges, error: EngineError) -> Ranges | None:
        """What to try in place of ranges for which no engine was built.

        Args:
            ranges: The ranges.
            error: Why.
        """
        _log.info("no engine for ranges of shapes was built: %s", error)
        tight = None
        wrong = isinstance(error, WrongError)  # for narrower ones it would be built alike
        if self._wanted is None and not self._tight and not wrong and ranges == self._pending:
            self._tight = True
            tight = self._learned.tight(self._segment.tied)
        if self._wanted is None and ranges == self.first:
            self._memory.store(b"{}")  # no other process is to try the same
        if tight is None or tight == ranges or not self._covers(tight):
            every = "every" if ranges == self._ranges or self._ranges is None else "every further"
            self.reason = f"{every} input shape has an engine of its own: {error}"
            self._wanted = self._pending = None
            if ranges == self._ranges:
                self._ranges = None
            return None
        self._pending = tight
        return tight

    def built(self, ranges: Ranges, digest: str) -> bool:
        """Note that a session serves ranges; whether they are new."""
        if self.digest == digest:
            return False
        self.digest = digest
        if ranges == self._pending:
            self._ranges, self._ranges_model = ranges, self._model
            self._pending = None
            self._builds += 1
        if self._wanted is None:
            told = {"format": _FORMAT, "learned": self._learned.to_json(), **_to_json(ranges)}
            self._memory.store(json.dumps(told).encode())
        return True

    def _fits(self, shapes: Shapes) -> bool:
        return self._segment.digest_at(shapes) == self._model

    def _covers(self, ranges: Ranges) -> bool:
        """Whether the model is for the ends of ranges, and what kernels are chosen at."""
        ends = {s for one in ranges.profiles for s in (one.smallest, one.usual, one.largest)}
        return all(map(self._fits, ends))

    def _widened(self) -> Ranges | None:
        if self._builds >= _MOST_BUILDS:
            self.reason = (
                "every further input shape has an engine of its own: the ranges of an engine for "
                f"all of them were widened {_MOST_BUILDS} times"
            )
            return None
        tied = self._segment.tied
        learned = self._learned
        ranges = learned.tight(tied) if self._tight else learned.ranges(tied, self._fits)
        return ranges if ranges is not None and self._covers(ranges) else None

    def _take(self, wanted: Wanted) -> None:
        """Have the first engine serve the ranges that the options ask for."""
        shapes = self._segment.shapes
        wanted.check(shapes)
        try:
            wanted.show(self._segment.at)
            self._model = self._segment.at(shapes)[1].digest
        except Exception as error:
            self._give_up(f"the graph does not take these shapes: {error}")
            return
        ranges = wanted.ranges(self._segment.tied, self._fits)
        if ranges is None or not self._covers(ranges):
            self._give_up("no single model serves all of these shapes")
            return
        self._ranges, self._ranges_model = ranges, self._model

    def _give_up(self, reason: str) -> None:
        assert self._wanted is not None
        self.reason = f"option {self._wanted.option} has no effect here: {reason}"
        _log.warning(self.reason)
        self._wanted = None

    def _remember(self) -> None:
        """Have the first engine serve what was learned by earlier processes."""
        told = self._memory.load()
        if told is None:
            return
        shapes = self._segment.shapes
        try:
            data = json.loads(told)
            if data["format"] != _FORMAT:
                return
            learned, ranges = Learned.of(data["learned"]), _from_json(data)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            _log.debug("ranges of shapes that were kept are not used: %s", error)
            return
        if not learned.see(shapes):
            return
        self._learned = learned
        if not ranges.contains(shapes):
            return
        try:
            ends = (ranges.largest, ranges.smallest, shapes)
            found = [self._segment.at(end)[1].digest for end in ends]
        except Exception as error:
            _log.debug("ranges of shapes that were kept are not used: %s", error)
            return
        if found == found[:1] * len(found):
            self._ranges, self._ranges_model = ranges, found[0]


def _to_json(ranges: Ranges) -> dict[str, Any]:
    profiles = [(one.smallest, one.usual, one.largest) for one in ranges.profiles]
    return {"profiles": profiles, "symbols": ranges.symbols}


def _from_json(data: Any) -> Ranges:
    """What :func:`_to_json` made.

    Raises:
        ValueError: It is something else.
        KeyError: Likewise.
        TypeError: Likewise.
    """
    profiles = tuple(
        Profile(*(tuple(tuple(map(int, shape)) for shape in shapes) for shapes in one))
        for one in data["profiles"]
    )
    symbols = tuple(tuple((int(i), int(axis)) for i, axis in symbol) for symbol in data["symbols"])
    if not profiles or not all(
        profiles[-1].contains(s) for one in profiles for s in (one.smallest, one.usual, one.largest)
    ):
        raise ValueError("its ranges do not fit each other")
    largest = profiles[-1].largest
    for i, axis in (place for symbol in symbols for place in symbol):
        if not (0 <= i < len(largest) and 0 <= axis < len(largest[i])):
            raise ValueError("a range is for an axis that does not exist")
    return Ranges(profiles, symbols)
