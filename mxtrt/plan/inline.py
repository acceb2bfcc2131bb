"""Graphs that are one segment, from the calling thread.

MXNet hands every operator to a thread of its engine and wakes the caller when it is done.  In
host memory, for a graph that takes less time than that, the two switches are most of the cost;
such a graph runs on the calling thread.  On a GPU the calling thread puts the run on a stream and
goes on.  The outputs are arrays that nobody else holds.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mxtrt.plan.engine_node import EngineNode
    from mxtrt.plan.plan import Plan

__all__ = ["Alike", "InlineRun", "OtherArraysError"]


class OtherArraysError(Exception):
    """The arrays of a call are sparse, or of another dtype or context than those of the bind."""


class InlineRun:
    """Runs an engine node without MXNet's engine.

    Args:
        node: The engine node.
        below: Microseconds; where its runs in host memory take longer, they go through MXNet.
        context: The context of its inputs and outputs.
    """

    def __init__(self, node: EngineNode, below: int, context: Any) -> None:
        from mxnet.base import NDArrayHandle
        from mxnet.ndarray import NDArray

        from mxtrt.node import library
        from mxtrt.node.abi import Call

        self._run, self._take_error = library().run_call, library().take_error
        self._array, self._handle = NDArray, NDArrayHandle
        self._node = node
        inputs, outputs = len(node.inputs), len(node.report.outputs)
        limit, place = below * 1000, (context.device_typeid, context.device_id)
        self._call = ctypes.pointer(Call(node.key, limit, *place, inputs, outputs))
        self._inputs = ctypes.c_void_p * inputs
        self._outputs = ctypes.c_void_p * outputs

    @property
    def call_address(self) -> int:
        """Address of its ``Call`` in C, which lives as long as this."""
        return ctypes.addressof(self._call.contents)

    @classmethod
    def of(cls, plan: Plan, context: Any) -> InlineRun | None:
        """The inline run of a plan, or None where it has to go through MXNet."""
        below = plan.options.inline_below
        return cls(plan.nodes[0], below, context) if plan.is_one_node and below else None

    def __call__(self, inputs: Sequence[Any]) -> list[Any] | None:
        """The outputs, there or on their way; None when this run has to go through MXNet.

        A run that fails retires the engine: the plan's state says so.

        Args:
            inputs: The node's inputs in order.

        Raises:
            OtherArraysError: They are not what the node was bound for.
        """
        outputs = self._outputs()
        done = self._run(self._call, self._inputs(*[array.handle for array in inputs]), outputs)
        if done == 1:
            return [self._array(self._handle(handle)) for handle in outputs]
        if done == -2:
            raise OtherArraysError
        if done == 0:
            self._node.retire(self._take_error())
        return None


class Alike:
    """Tells arrays that are dense, in one context and of the dtypes of the bind.

    Args:
        dtypes: The dtypes of the arrays in order.
        context: Their context.
    """

    def __init__(self, dtypes: Sequence[Any], context: Any) -> None:
        from mxtrt.node import library
        from mxtrt.plain.dtypes import type_flag

        self._are_alike = library().are_alike
        self._handles = ctypes.c_void_p * len(dtypes)
        self._types = (ctypes.c_int * len(dtypes))(*map(type_flag, dtypes))
        self._context = len(dtypes), context.device_typeid, context.device_id

    def __call__(self, arrays: Sequence[Any]) -> bool:
        """Whether these arrays are."""
        handles = self._handles(*[array.handle for array in arrays])
        return bool(self._are_alike(handles, self._types, *self._context))
