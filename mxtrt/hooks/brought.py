"""Values of arguments that a symbol brings along.

MXNet's script for TensorRT gives ``optimize_for`` the weights, before the shapes of the data are
known, and binds without them.  A partitioned symbol that was saved has no arguments for the
weights of its engines; where it is loaded and an engine takes less than that, the weights are
arguments again, of which the caller knows nothing.  Binds complete what they are given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import mxnet as mx
import numpy as np
from mxnet.executor import Executor
from mxnet.symbol import Symbol

if TYPE_CHECKING:
    from mxtrt.saved.symbol_file import Saved

__all__ = ["Brought", "brought_by", "complete", "types_with", "write_into"]


@dataclass(frozen=True, slots=True)
class Brought:
    """Values of arguments that a symbol brings along.

    Attributes:
        arrays: NDArrays by name.
        saved: The file that they come from, if they do.
    """

    arrays: Mapping[str, Any]
    saved: Saved | None = None

    @property
    def unread(self) -> tuple[str, ...]:
        """Names of those that no value depends on, such as labels."""
        return self.saved.unread if self.saved is not None else ()

    def of(self, names: Sequence[str]) -> Brought | None:
        """What of it is among some names, None for nothing."""
        arrays = {name: self.arrays[name] for name in names if name in self.arrays}
        return Brought(arrays, self.saved) if arrays else None


def brought_by(symbol: Any) -> Brought | None:
    """What a symbol brings along, if anything."""
    symbol = getattr(symbol, "_mxtrt", symbol)  # of a symbol under NumPy's semantics
    return getattr(symbol, "brought", None)


def complete(symbol: Symbol, ctx: Any, args: Any, aux: Any) -> tuple[Any, Any]:
    """Arguments and auxiliary states of a bind, with what the symbol brings along.

    Args:
        symbol: The symbol.
        ctx: Context of the bind.
        args: Arguments as a list or by name, as ``Symbol.bind`` takes them.
        aux: Auxiliary states likewise.
    """
    brought = brought_by(symbol)
    if brought is None:
        return args, aux
    args = _completed(brought, ctx, args, symbol.list_arguments())
    aux = _completed(brought, ctx, aux, symbol.list_auxiliary_states())
    for name, shape in _shapes_of_unread(brought, symbol, args).items():
        if args[name] is brought.arrays[name] and shape != args[name].shape:
            dtype = args[name].dtype
            args[name] = mx.nd.array(np.ones(shape, dtype), ctx=ctx, dtype=dtype)
    return args, aux


def _shapes_of_unread(brought: Brought, symbol: Symbol, args: Any) -> dict[str, tuple[int, ...]]:
    """Shapes of labels and the like beside these arguments, whose batch size may be another."""
    unread = {name for name in brought.unread if name in brought.arrays}
    if not unread or not isinstance(args, Mapping):
        return {}
    known = {name: array.shape for name, array in args.items() if name not in unread}
    names = symbol.list_arguments()
    known = {name: shape for name, shape in known.items() if name in names}
    shapes, _, _ = symbol.infer_shape_partial(**known)
    inferred = dict(zip(names, shapes or (), strict=False))
    found = {name: inferred[name] for name in unread if inferred.get(name)}
    return {name: shape for name, shape in found.items() if min(shape) > 0}


def _completed(brought: Brought, ctx: Any, given: Any, names: Sequence[str]) -> Any:
    held = brought.of(names)
    if held is None:
        return given
    if isinstance(given, Sequence):
        shown = [name for name in names if name not in held.arrays]
        if len(given) != len(shown):  # given in full; if one is missing MXNet says which
            return given
        given = dict(zip(shown, given, strict=True))
    arrays = {name: array.as_in_context(ctx) for name, array in held.arrays.items()}
    return {**arrays, **(given or {})}


def types_with(symbol: Symbol, type_dict: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Types of arguments for ``simple_bind``, with those that the symbol brings along."""
    brought = brought_by(symbol)
    types = {name: array.dtype for name, array in brought.arrays.items()} if brought else {}
    if brought is None or all(dtype == np.float32 for dtype in types.values()):
        return type_dict  # MXNet's default, which it does not apply beside types that are given
    inputs = brought.saved.inputs if brought.saved is not None else {}
    types.update({n: inputs[n].dtype for n in symbol.list_inputs() if n in inputs})
    return {**types, **(type_dict or {})}


def write_into(executor: Executor, symbol: Symbol) -> None:
    """Give an executor that ``simple_bind`` made what the symbol brings along."""
    brought = brought_by(symbol)
    if brought is not None:
        arrays = {**executor.arg_dict, **executor.aux_dict}
        for name, array in brought.arrays.items():
            if name not in brought.unread:
                array.copyto(arrays[name])
