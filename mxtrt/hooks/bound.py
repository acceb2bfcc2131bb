"""A block's graph with engines, bound to some arrays: what one call of a hybridized block runs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from mxnet.base import MXNetError
from mxnet.gluon.parameter import Parameter
from mxnet.ndarray import CachedOp, NDArray

from mxtrt.graph.symbol import Shapes
from mxtrt.hooks.partitioned import EngineSymbol
from mxtrt.plain.loading import mxnet_reason
from mxtrt.plan import later
from mxtrt.plan.freshness import Freshness
from mxtrt.plan.inline import Alike, InlineRun, OtherArraysError
from mxtrt.system.background import Job
from mxtrt.system.threads import lock, rlock

__all__ = [
    "Bound",
    "FirstAlone",
    "LeftError",
    "Op",
    "PostponedError",
    "RetiredError",
    "flags_of",
]

_log = logging.getLogger("mxtrt")

# So many input shapes are remembered that the engines did not take.
_MOST_LEFT = 1000

# For so many input shapes engines are being built at once; others have to come again.
_MOST_AWAITED = 32


class RetiredError(Exception):
    """The engine failed in this call, which is MXNet's now."""


class LeftError(Exception):
    """The engines did not take these input shapes before."""


class PostponedError(Exception):
    """The engine for these input shapes is yet to be built.

    Attributes:
        pause: After so many more requests for them.
    """

    def __init__(self, pause: int = 0) -> None:
        super().__init__(pause)
        self.pause = pause


class FirstAlone:
    """Calls of a ``CachedOp``: the first one alone.

    MXNet looks for dynamic shapes in it and takes no lock for that (``CheckDynamicShapeExists`` in
    ``src/imperative/cached_op.cc``); later calls are safe in many threads.  The call that warms a
    block up is the first one in plain MXNet; here an engine may have answered that one.
    """

    def __init__(self) -> None:
        self._done = False
        self._lock = rlock()

    def __call__(self, call: Callable[[], Any]) -> Any:
        """What the call returns."""
        if self._done:
            return call()
        with self._lock:
            outputs = call()
            self._done = True
            return outputs


class Op:
    """A ``CachedOp`` for calls in any thread.

    Args:
        symbol: The graph.
        flags: Of ``hybridize``, and which inputs are data.
        postponements: Of the graph's engine nodes by now.

    Attributes:
        postponements: The same.
    """

    def __init__(
        self, symbol: Any, flags: Sequence[tuple[str, Any]], postponements: int = 0
    ) -> None:
        self.postponements = postponements
        self.op = CachedOp(symbol, flags)
        self._first = FirstAlone()

    def __call__(self, inputs: Sequence[NDArray]) -> list[NDArray]:
        """The outputs."""
        outputs = self._first(lambda: self.op(*inputs))
        return [outputs] if isinstance(outputs, NDArray) else list(outputs)


def flags_of(
    names: Sequence[str], data: Mapping[str, int], flags: Iterable[tuple[str, Any]]
) -> list[tuple[str, Any]]:
    """What a ``CachedOp`` is told.

    Args:
        names: Its inputs, in order.
        data: What has the names of those that are data.
        flags: Of ``hybridize``.
    """
    places: tuple[list[int], list[int]] = [], []
    for place, name in enumerate(names):
        places[name in data].append(place)
    return [("data_indices", places[True]), ("param_indices", places[False]), *flags]


class Bound:
    """A block's graph with engines, as it was bound to some arrays.

    Args:
        symbol: The partitioned graph.
        data: Place among a call's arrays of every input that is data, by name.
        parameters: The Parameter of every other input, by name.
        arrays: Arrays of the parameters, by name.
        inputs: Arrays of the call.
        flags: Of ``hybridize``.
        about: What stands for the block, see :func:`mxtrt.ready`.

    Attributes:
        symbol: The same.
        inline: Its inline run, if it has one.
        arrays: The same.
        freshness: Keeps the engines in step with the parameters.
    """

    def __init__(
        self,
        symbol: EngineSymbol,
        data: Mapping[str, int],
        parameters: Mapping[str, Parameter],
        arrays: Mapping[str, Any],
        inputs: Sequence[NDArray],
        flags: Iterable[tuple[str, Any]],
        about: object,
    ) -> None:
        names = symbol.list_inputs()
        self._inputs: list[tuple[bool, Any]] = [
            (True, data[name]) if name in data else (False, parameters[name]) for name in names
        ]
        self._flags = flags_of(names, data, flags)
        self._context = inputs[0].ctx
        self.inline = InlineRun.of(symbol.plan, self._context)
        self._alike = Alike([array.dtype for array in inputs], self._context)
        self.symbol = symbol
        self._data = data
        self._plan = symbol.plan
        self._renewing = lock()
        self._renew()
        self._left: dict[Shapes, str] = {}
        # What builds engines for shapes, or after how many more requests that is to begin.
        self._awaited: dict[Shapes, Job | int] = {}
        self._about = about
        self.arrays = arrays
        self.freshness = Freshness(symbol.plan, arrays, about)

    def __call__(self, flat: Sequence[NDArray]) -> list[NDArray]:
        """The outputs.

        Args:
            flat: The arrays among the arguments of a call.

        Raises:
            OtherArraysError: They are of another kind than those of the bind.
            MXNetError: The engines do not accept their shapes.
            LeftError: They did not before.
            PostponedError: An engine for them is yet to be built.
            RetiredError: The engine failed.
        """
        context = self._context
        inputs = [flat[i] if is_data else i.data(context) for is_data, i in self._inputs]
        outputs = None
        if self.inline is not None:
            outputs = self.inline(inputs)
        elif not self._alike(flat):
            raise OtherArraysError
        if outputs is None:
            if self._plan.state.retired:
                raise RetiredError
            if self._left and _shapes(flat) in self._left:
                raise LeftError
            if self._awaited and not self._has_come(_shapes(flat)):
                raise PostponedError
            outputs = self._run(inputs)
        return list(outputs)

    def takes(self, flat: Sequence[NDArray]) -> bool:
        """Whether engines answer arrays of these shapes, which have been called."""
        shapes = _shapes(flat)
        return not (self._plan.state.retired or shapes in self._left or shapes in self._awaited)

    @property
    def op(self) -> CachedOp:
        """MXNet's, of the partitioned graph."""
        return self._op.op

    def _run(self, inputs: Sequence[NDArray]) -> list[NDArray]:
        """Run the graph through MXNet.

        A ``CachedOp`` whose shape inference failed takes it for done when the shapes come again
        (``CheckAndInferShape`` in ``src/imperative/imperative_utils.h``).
        """
        while True:
            op = self._op
            try:
                return op(inputs)
            except MXNetError:
                pause = later.was_postponed()
                with self._renewing:
                    if op is self._op and op.postponements != self._postponements():
                        self._renew()
                if pause is not None:
                    raise PostponedError(pause) from None
                if op is self._op:
                    raise

    def _renew(self) -> None:
        self._op = Op(self.symbol, self._flags, self._postponements())

    def _postponements(self) -> int:
        return sum(node.postponements for node in self._plan.nodes)

    def _has_come(self, shapes: Shapes) -> bool:
        """Whether what was awaited for input shapes is there, or failed, or nothing was."""
        awaited = self._awaited.get(shapes)
        if isinstance(awaited, int):
            self._awaited[shapes] = max(awaited - 1, 0)
            return False
        if awaited is not None and awaited.done:
            self._awaited.pop(shapes, None)
        return awaited is None or awaited.done

    @property
    def awaits(self) -> bool:
        """Whether engines are being built for input shapes."""
        return any(isinstance(job, Job) and not job.done for job in list(self._awaited.values()))

    def await_engine(self, flat: Sequence[NDArray], pause: int) -> None:
        """Have the engine for arrays of these shapes built in the background, after a pause."""
        shapes = _shapes(flat)
        with self._renewing:
            if len(self._awaited) >= _MOST_AWAITED:  # some may never have come again
                for other, job in list(self._awaited.items()):
                    if isinstance(job, int) or job.done:
                        self._awaited.pop(other, None)
            awaited = self._awaited.get(shapes)
            if awaited is None and pause:
                self._awaited[shapes] = pause
            elif not awaited and len(self._awaited) < _MOST_AWAITED:
                known = {name: array.shape for name, array in self.arrays.items()}
                known.update((name, shapes[place]) for name, place in self._data.items())
                job = later.build_for(self.symbol, known, shapes, self._about)
                self._awaited[shapes] = job

    def leave(self, flat: Sequence[NDArray], error: MXNetError) -> None:
        """Leave calls with arrays of these shapes to MXNet: the engines did not take them."""
        shapes, reason = _shapes(flat), mxnet_reason(error)
        if reason not in self._left.values():
            told = " and ".join(map(str, shapes))
            _log.warning("calls with inputs %s run as plain MXNet: %s", told, reason)
        if len(self._left) == _MOST_LEFT:
            self._left.clear()
        self._left[shapes] = reason


def _shapes(flat: Sequence[NDArray]) -> Shapes:
    return tuple(array.shape for array in flat)
