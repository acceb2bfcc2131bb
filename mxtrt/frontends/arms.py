"""What the library in C runs by itself: the structures of ``bound.h`` and its users."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

from mxtrt.node import library
from mxtrt.plan.inline import InlineRun
from mxtrt.plan.plan import Plan

__all__ = ["CachedOpArms", "ExecutorArms", "watches_of"]

_POINTER = ctypes.c_void_p
_POINTERS = ctypes.POINTER(ctypes.c_void_p)
_INTS = ctypes.POINTER(ctypes.c_int)


class _Arms(ctypes.Structure):
    _fields_ = [
        ("watches", _POINTERS),
        ("call", _POINTER),
        ("partitioned", _POINTER),
        ("nodes", ctypes.POINTER(ctypes.c_int64)),
        ("num_watches", ctypes.c_int),
        ("num_nodes", ctypes.c_int),
    ]

    def __init__(
        self, plan: Plan, watches: Sequence[Any], inline: InlineRun | None, partitioned: Any
    ) -> None:
        keys = [node.key for node in plan.nodes]
        super().__init__(
            _pointers([watch.handle for watch in watches]),
            None if inline is None else inline.call_address,
            partitioned.handle,
            _sizes(keys),
            len(watches),
            len(keys),
        )


class ExecutorArms(ctypes.Structure):
    """The arms of an executor, and all that they point to.

    Args:
        plan: The plan of its engines.
        watches: Of the plan's weights.
        inline: Its inline run, if it has one.
        executor: MXNet's, of the partitioned symbol.
        inputs: Arrays of the arguments of the partitioned symbol, in order.
        outputs: The caller's output arrays.
    """

    _fields_ = [
        ("arms", _Arms),
        ("inputs", _POINTERS),
        ("outputs", _POINTERS),
        ("num_inputs", ctypes.c_int),
        ("num_outputs", ctypes.c_int),
    ]

    def __init__(
        self,
        plan: Plan,
        watches: Sequence[Any],
        inline: InlineRun | None,
        executor: Any,
        inputs: Sequence[Any],
        outputs: Sequence[Any],
    ) -> None:
        super().__init__()
        made = executor.outputs
        self.arms = arms = _Arms(plan, watches, inline, executor)
        self.inputs, self.num_inputs = _handles(inputs), len(inputs)
        self.outputs, self.num_outputs = _handles([*outputs, *made]), len(outputs)
        self._kept = arms, watches, inline, executor, [*inputs], [*outputs], made


class CachedOpArms(ctypes.Structure):
    """The arms of a ``CachedOp``, and all that they point to.

    Args:
        plan: The plan of its engines.
        watches: Of the plan's weights.
        inline: Its inline run, if it has one.
        op: MXNet's ``CachedOp`` of the partitioned symbol.
        places: Of its inputs among the caller's.
        parameters: Array of every parameter, by its place among the caller's inputs.
        shapes: Of its inputs; empty for those that are parameters.
        num_outputs: How many it has.
    """

    _fields_ = [
        ("arms", _Arms),
        ("places", _INTS),
        ("parameter_places", _INTS),
        ("parameters", _POINTERS),
        ("ndims", _INTS),
        ("sizes", ctypes.POINTER(ctypes.c_int64)),
        ("num_inputs", ctypes.c_int),
        ("num_outputs", ctypes.c_int),
        ("num_parameters", ctypes.c_int),
    ]

    def __init__(
        self,
        plan: Plan,
        watches: Sequence[Any],
        inline: InlineRun | None,
        op: Any,
        places: Sequence[int],
        parameters: Mapping[int, Any],
        shapes: Sequence[tuple[int, ...]],
        num_outputs: int,
    ) -> None:
        super().__init__()
        self.arms = arms = _Arms(plan, watches, inline, op)
        self._kept = arms, watches, inline, op, parameters
        self.places = _ints(places)
        self.parameter_places = _ints([*parameters])
        self.parameters = _handles([*parameters.values()])
        self.ndims = _ints([len(shape) for shape in shapes])
        self.sizes = _sizes([size for shape in shapes for size in shape])
        self.num_inputs, self.num_outputs = len(places), num_outputs
        self.num_parameters = len(parameters)


def watches_of(plan: Plan, arrays: Sequence[Any]) -> list[Any]:
    """Watches of all that the engines of a plan were built from, from now on.

    Args:
        plan: The plan.
        arrays: Its weights.
    """
    # One of its own: the plan's looks at another moment once the weights have changed.
    return [library().watch(list(arrays)), *plan.baseline.watches_of_others]


def _pointers(values: Sequence[int | None]) -> Any:
    return (_POINTER * max(len(values), 1))(*values)


def _handles(arrays: Sequence[Any]) -> Any:
    return _pointers([array.handle.value for array in arrays])


def _ints(values: Sequence[int]) -> Any:
    return (ctypes.c_int * max(len(values), 1))(*values)


def _sizes(values: Sequence[int]) -> Any:
    return (ctypes.c_int64 * max(len(values), 1))(*values)
