"""The sessions of one engine node: found in this process, or built."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mxtrt.config import Options
from mxtrt.convert.segment import OnnxSegment
from mxtrt.engines import BuildRequest, Engine, Session, Weight
from mxtrt.engines.ranges import Ranges
from mxtrt.engines.shared import shared_sessions
from mxtrt.errors import EngineError, RefusedNodesError
from mxtrt.graph.symbol import TensorType
from mxtrt.observe.counters import count
from mxtrt.precision import retyped

__all__ = ["Made", "Sessions"]

_log = logging.getLogger("mxtrt")


class Made(NamedTuple):
    """A session that was found or built.

    Attributes:
        session: The session.
        notes: What a person should know of it.
        borrows: Whether it reads other arrays than the node's weights, of the same contents.
    """

    session: Session
    notes: list[str]
    borrows: bool


class Sessions:
    """Sessions by the digest of what they serve.

    Args:
        engine: What builds them.
        options: The options of the bind.
        gpu: The GPU that the node's arrays are on, None for host memory.

    Attributes:
        by_digest: The sessions.
        borrowed: Those that read other arrays than the node's weights, of the same contents; the
            plan follows writes to these too.
        arrays: NDArrays of the weights by name; None before the first build.
        in_place: Weights that the session built last reads where MXNet has them, by name.
        built: How many were built, and not found.
    """

    def __init__(
        self,
        engine: Engine,
        options: Options,
        gpu: int | None,
    ) -> None:
        self._engine = engine
        self._options = options
        self._gpu = gpu
        self._limit = max(options.max_engines, 1)
        self._shares = False
        self.by_digest: dict[str, Session] = {}
        self.borrowed: list[Session] = []
        self.arrays: Mapping[str, Any] | None = None
        self.in_place: dict[str, Weight] = {}
        self.built = 0

    def renew(self, arrays: Mapping[str, Any], shares: bool) -> dict[str, Session]:
        """Take new weights; no session has them yet.

        Args:
            arrays: The weights by name.
            shares: Whether sessions of the same contents may be shared with others.

        Returns:
            The sessions so far.  Other threads may be running them: they are to go when the new
            ones have taken their place.
        """
        self.arrays = arrays
        self._shares = shares and self._engine.shares_sessions and not self._engine.static_shapes
        old = dict(self.by_digest)
        self.by_digest.clear()
        for session in old.values():
            if session in self.borrowed:
                self.borrowed.remove(session)
            else:  # its weights have changed, so no other plan may find it
                shared_sessions().forget(session)
        return old

    def excess(self) -> int:
        """How many sessions have to go before another one comes."""
        return max(len(self.by_digest) - self._limit + 1, 0)

    def drop(self, digest: str) -> None:
        """Give up a session."""
        session = self.by_digest.pop(digest)
        if session in self.borrowed:
            self.borrowed.remove(session)

    def put(self, digest: str, made: Made) -> None:
        """Keep a session.

        Args:
            digest: What it serves.
            made: The session, as :meth:`made` returned it.
        """
        self.by_digest[digest] = made.session
        if made.borrows:
            self.borrowed.append(made.session)

    def made(
        self,
        model: OnnxSegment,
        inputs: Sequence[TensorType],
        outputs: Sequence[TensorType],
        ranges: Ranges | None = None,
    ) -> Made:
        """Find or build a session for a model and the weights at hand.

        Args:
            model: The model in float32.
            inputs: Types of its inputs.
            outputs: Types of its outputs.
            ranges: The input shapes that it is to serve; None for these, or what the engine does.

        Raises:
            RefusedNodesError: The engine refused nodes.
            EngineError: The engine refused the model.
        """
        assert self.arrays is not None
        weights = [Weight.of(w, self.arrays[w.name]) for w in model.weights]
        if self._gpu is None:  # weights on a GPU are copied to the host for the build
            self.in_place = {weight.type.name: weight for weight in weights}
        # Ranges for int8 are of whole segments, which nodes that the engine refuses must not
        # leave: their layers leave int8, or all layers where none of them is named.
        refused: dict[str, str] = {}
        while True:
            made = retyped(model, weights, inputs, self._engine, self._options, refused)
            request = BuildRequest(
                made.segment, made.weights, inputs, outputs, self._options, self._gpu, ranges
            )
            try:
                session, borrows = self._found_or_built(request)
            except EngineError as error:
                if made.quantized is None:
                    raise
                if not made.quantized:
                    raise EngineError(str(error)) from error
                _log.info("the engine refused layers in int8: %s", error)
                refused |= _leaving_int8(made.quantized, error)
            else:
                return Made(session, [*made.notes, *session.notes], borrows)

    def _found_or_built(self, request: BuildRequest) -> tuple[Session, bool]:
        """A session, and whether it reads other arrays than this node's weights."""

        def build() -> Session:
            session = self._engine.build(request)
            count("builds")
            self.built += 1
            return session

        if not self._shares:
            return build(), False
        session, found = shared_sessions().find_or_build(request, build)
        if not found:
            return session, False
        count("shared")
        own = {weight.address for weight in request.weights}
        return session, any(weight.address not in own for weight in session.weights)


def _leaving_int8(quantized: frozenset[str], error: EngineError) -> dict[str, str]:
    """The layers that leave int8 after a refusal, and why: those named, or all of them."""
    named = error.reasons if isinstance(error, RefusedNodesError) else {}
    if quantized & named.keys():
        return dict(named)
    return dict.fromkeys(sorted(quantized), str(error))
