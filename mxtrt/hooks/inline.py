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

from mxnet.base import NDArrayHandle
from mxnet.ndarray import NDArray

from mxtrt.hooks import waiting

if TYPE_CHECKING:
    from mxtrt.engine_node import EngineNode
    from mxtrt.plan import Plan

__all__ = ["InlineRun"]


class InlineRun:
    """Runs an engine node without MXNet's engine.

    Args:
        node: The engine node.
        below: Microseconds; where its last run in host memory took longer, it goes through MXNet.
    """

    def __init__(self, node: EngineNode, below: int) -> None:
        from mxtrt.node import library

        self._run, self._take_error = library().run, library().take_error
        self._node = node
        if node.gpu is not None:
            waiting.install()
        self._key = node.key
        self._num_inputs = len(node.inputs)
        self._num_outputs = len(node.report.outputs)
        self._nanoseconds = below * 1000
        self._inputs = ctypes.c_void_p * self._num_inputs
        self._outputs = ctypes.c_void_p * self._num_outputs

    @classmethod
    def of(cls, plan: Plan) -> InlineRun | None:
        """The inline run of a plan, or None where it has to go through MXNet."""
        below = plan.options.inline_below
        return cls(plan.nodes[0], below) if plan.is_one_node and below else None

    def __call__(self, inputs: Sequence[NDArray]) -> list[Any] | None:
        """The outputs, there or on their way; None when this run has to go through MXNet.

        A run that fails retires the engine: the plan's ``failures`` say so.

        Args:
            inputs: The node's inputs in order.
        """
        outputs = self._outputs()
        done = self._run(
            self._key,
            self._inputs(*[array.handle for array in inputs]),
            self._num_inputs,
            outputs,
            self._num_outputs,
            self._nanoseconds,
        )
        if done == 1:
            return [NDArray(NDArrayHandle(handle)) for handle in outputs]
        if done == 0:
            self._node.retire(self._take_error())
        return None
