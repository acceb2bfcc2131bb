"""Forwards in MXNet's own executors, without engines."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

__all__ = ["bound", "context_of", "originals"]

#: MXNet's own functions, set where they are wrapped.
originals = SimpleNamespace(optimize_for=None, bind=None)


def context_of(gpu: int | None) -> Any:
    """MXNet's context of a GPU, or of host memory for None."""
    import mxnet as mx

    return mx.cpu() if gpu is None else mx.gpu(gpu)


def bound(symbol: Any, arrays: Mapping[str, Any], context: Any) -> Any:
    """MXNet's executor of a symbol, for inference.

    Args:
        symbol: The symbol.
        arrays: NDArrays of its arguments and auxiliary states by name, and possibly more.
        context: The context of the arrays.

    Raises:
        MXNetError: MXNet does not bind it.
    """
    bind = originals.bind or type(symbol).bind
    return bind(
        symbol,
        context,
        [arrays[name] for name in symbol.list_arguments()],
        None,
        "null",
        [arrays[name] for name in symbol.list_auxiliary_states()],
    )
