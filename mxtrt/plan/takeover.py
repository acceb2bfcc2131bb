"""MXNet's operators in place of an engine that failed at run time, within the same request.

The failure is noticed by the thread of MXNet's engine that runs the engine node, and that thread
can not wait for MXNet: what it would wait for may be queued behind it.  So a second process,
with plain MXNet and without engines, runs the segment on the CPU.  It is started at the first
failure, and serves until the graph is partitioned without the segment, which the hooks see to at
the next forward; a symbol of ``optimize_for`` has no hook and keeps it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from mxtrt.plain.forward import bound
from mxtrt.system.child import Arrays, Child, Header, serve

__all__ = ["TakeOver", "main"]

# Seconds to wait for an answer before the process counts as stuck.
_PATIENCE = 120.0


class TakeOver:
    """A process that runs one segment in plain MXNet.

    Args:
        symbol: The segment as symbol JSON.
        constants: Values of its weights by name; the process gets a copy.
        unread: Dtypes of further variables, whose values nothing depends on, by name.

    Raises:
        EngineError: It does not start.
    """

    def __init__(self, symbol: str, constants: Arrays, unread: Mapping[str, str]) -> None:
        name = "the process that was to take over"
        self._child = Child(__name__, name, CUDA_VISIBLE_DEVICES="")
        self._child.ask({"symbol": symbol, "unread": dict(unread)}, constants, _PATIENCE)

    @property
    def is_ours(self) -> bool:
        """See :attr:`mxtrt.system.child.Child.is_ours`."""
        return self._child.is_ours

    def __call__(self, inputs: Arrays) -> list[np.ndarray[Any, Any]]:
        """The segment's outputs in order.

        Raises:
            EngineError: The process could not answer; the message is MXNet's.
        """
        return list(self._child.ask({}, inputs, _PATIENCE)[1].values())


class _Segment:
    """The segment in plain MXNet; the first question says what it is, others are its inputs."""

    def __init__(self) -> None:
        self._symbol: Any = None

    def __call__(self, header: Header, arrays: Arrays) -> tuple[Header, Arrays]:
        if self._symbol is None:
            self._begin(header, arrays)
            return {}, {}
        return {}, {str(place): out for place, out in enumerate(self._run(arrays))}

    def _begin(self, header: Header, constants: Arrays) -> None:
        from mxtrt.plain.loading import import_mxnet

        self._mx = import_mxnet()
        self._symbol = self._mx.sym.load_json(header["symbol"])
        self._constants = self._arrays(constants)
        self._unread: dict[str, str] = header["unread"]

    def _run(self, inputs: Arrays) -> Iterator[np.ndarray[Any, Any]]:
        mx, symbol = self._mx, self._symbol
        values = {**self._constants, **self._arrays(inputs)}
        if self._unread:
            shapes = dict(_shapes(symbol, values))
            for name, dtype in self._unread.items():
                values[name] = mx.nd.ones(shapes[name], dtype=np.dtype(dtype))
        executor = bound(symbol, values, mx.cpu())
        for output in executor.forward(is_train=False):
            yield output.asnumpy()

    def _arrays(self, arrays: Arrays) -> dict[str, Any]:
        return {name: self._mx.nd.array(a, dtype=a.dtype) for name, a in arrays.items()}


def _shapes(symbol: Any, values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Shapes of all variables of a symbol by name."""
    known = {name: array.shape for name, array in values.items()}
    arguments, _, states = symbol.infer_shape(**known)
    yield from zip(symbol.list_arguments(), arguments, strict=True)
    yield from zip(symbol.list_auxiliary_states(), states, strict=True)


def main() -> None:
    """Serve one segment."""
    serve(_Segment())
