"""What the library in C runs by itself, as ``Arms`` in ``libmxnet.cc`` has it."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

from mxtrt.node import library
from mxtrt.plan.inline import InlineRun
from mxtrt.plan.plan import Plan

__all__ = ["ArmsInC", "armed_block", "armed_executor", "watches_of"]

_POINTER = ctypes.c_void_p
_POINTERS = ctypes.POINTER(ctypes.c_void_p)


class ArmsInC(ctypes.Structure):
    """The structure; it keeps what its fields point to."""

    _fields_ = [
        ("watches", _POINTERS),
        ("call", _POINTER),
        ("partitioned", _POINTER),
        ("num_watches", ctypes.c_int),
        ("num_nodes", ctypes.c_int),
        ("num_inputs", ctypes.c_int),
        ("num_outputs", ctypes.c_int),
        ("num_parameters", ctypes.c_int),
        ("nodes", ctypes.POINTER(ctypes.c_int64)),
        ("inputs", _POINTERS),
        ("outputs", _POINTERS),
        ("places", ctypes.POINTER(ctypes.c_int)),
        ("parameter_places", ctypes.POINTER(ctypes.c_int)),
        ("parameters", _POINTERS),
        ("ndims", ctypes.POINTER(ctypes.c_int)),
        ("sizes", ctypes.POINTER(ctypes.c_int64)),
    ]


def watches_of(plan: Plan, arrays: Sequence[Any]) -> list[Any]:
    """Watches of all that the engines of a plan were built from, from now on.

    Args:
        plan: The plan.
        arrays: Its weights.
    """
    # One of its own: the plan's looks at another moment once the weights have changed.
    return [library().watch(list(arrays)), *plan.baseline.watches_of_others]


def armed_executor(
    plan: Plan,
    watches: Sequence[Any],
    inline: InlineRun | None,
    executor: Any,
    inputs: Sequence[Any],
    outputs: Sequence[Any],
) -> ArmsInC:
    """The arms of an executor.

    Args:
        plan: The plan of its engines.
        watches: Of the plan's weights.
        inline: Its inline run, if it has one.
        executor: MXNet's, of the partitioned symbol.
        inputs: Arrays of the arguments of the partitioned symbol, in order.
        outputs: The caller's output arrays.
    """
    arms = _armed(plan, watches, inline, executor.handle)
    made = executor.outputs
    arms.num_inputs, arms.num_outputs = len(inputs), len(outputs)
    arms.inputs = _handles(inputs)
    arms.outputs = _handles([*outputs, *made])
    arms.kept = executor, watches, inline, [*inputs], [*outputs], made
    return arms


def armed_block(
    plan: Plan,
    watches: Sequence[Any],
    inline: InlineRun | None,
    op: Any,
    places: Sequence[int],
    parameters: Sequence[tuple[int, int]],
    shapes: Sequence[tuple[int, ...]],
    outputs: int,
) -> ArmsInC:
    """The arms of a ``CachedOp``.

    Args:
        plan: The plan of its engines.
        watches: Of the plan's weights.
        inline: Its inline run, if it has one.
        op: MXNet's ``CachedOp`` of the partitioned symbol.
        places: Of its inputs among the caller's.
        parameters: Place among the caller's inputs and handle of every parameter.
        shapes: Of its inputs; empty for those that are parameters.
        outputs: How many it has.
    """
    arms = _armed(plan, watches, inline, op.handle)
    arms.num_inputs, arms.num_outputs = len(places), outputs
    arms.num_parameters = len(parameters)
    arms.places = _ints(places)
    arms.parameter_places = _ints([place for place, _ in parameters])
    arms.parameters = _pointers([handle for _, handle in parameters])
    arms.ndims = _ints([len(shape) for shape in shapes])
    sizes = [size for shape in shapes for size in shape]
    arms.sizes = (ctypes.c_int64 * max(len(sizes), 1))(*sizes)
    arms.kept = op, watches, inline
    return arms


def _armed(
    plan: Plan, watches: Sequence[Any], inline: InlineRun | None, partitioned: Any
) -> ArmsInC:
    keys = [node.key for node in plan.nodes]
    return ArmsInC(
        watches=_pointers([watch.handle for watch in watches]),
        call=None if inline is None else inline.call_address,
        partitioned=partitioned,
        num_watches=len(watches),
        num_nodes=len(keys),
        nodes=(ctypes.c_int64 * max(len(keys), 1))(*keys),
    )


def _pointers(values: Sequence[int | None]) -> Any:
    return (_POINTER * max(len(values), 1))(*values)


def _handles(arrays: Sequence[Any]) -> Any:
    return _pointers([array.handle.value for array in arrays])


def _ints(values: Sequence[int]) -> Any:
    return (ctypes.c_int * max(len(values), 1))(*values)
