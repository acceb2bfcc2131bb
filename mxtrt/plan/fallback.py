"""What answers in place of an engine that failed: MXNet's operators, in another process."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mxtrt.graph.symbol import Graph
from mxtrt.node import library
from mxtrt.node.abi import Tensor
from mxtrt.plan.takeover import TakeOver
from mxtrt.system.threads import lock

__all__ = ["Fallback"]

Weights = Callable[[], Mapping[str, np.ndarray[Any, Any]]]


class Fallback:
    """Computes one segment in plain MXNet, on the CPU.

    MXNet's own threads call it, so it waits for nothing of this process's MXNet.

    Args:
        graph: The segment.
        inputs: Names of the inputs of its engine node, in order.
        gpu: The GPU that its tensors are on, None for host memory.

    Attributes:
        process: What computes; None before it is needed.
    """

    def __init__(
        self,
        graph: Graph,
        inputs: Sequence[str],
        gpu: int | None,
    ) -> None:
        self._graph = graph
        self._inputs = inputs
        self._gpu = gpu
        self._starting = lock()
        self.process: TakeOver | None = None

    def compute(self, tensors: Sequence[Tensor], stream: int, weights: Weights) -> None:
        """Compute the outputs.

        Args:
            tensors: Inputs, then outputs, which are written.
            stream: The ``CUstream`` on which MXNet runs the node, for tensors on a GPU.
            weights: Gives the values of the weights by name, if the process has to be started.

        Raises:
            EngineError: The process does not start, or cannot answer.
            NodeError: The GPU of the tensors does not answer.
        """
        with self._on_host(tensors, stream) as arrays:
            with self._starting:
                if self.process is None or not self.process.is_ours:
                    self.process = self._start(weights())
            inputs = dict(zip(self._inputs, arrays, strict=False))
            outputs = self.process(inputs)
            for seen, made in zip(arrays[len(inputs) :], outputs, strict=True):
                seen[...] = made

    def _start(self, weights: Mapping[str, np.ndarray[Any, Any]]) -> TakeOver:
        given = {*self._inputs, *weights}
        unread = {  # variables that no output depends on, such as a label at inference
            node.name: node.types[0].dtype.str
            for node in self._graph.nodes
            if node.is_variable and node.name not in given and node.types[0].dtype is not None
        }
        return TakeOver(self._graph.to_json(), weights, unread)

    def _on_host(
        self, tensors: Sequence[Tensor], stream: int
    ) -> contextlib.AbstractContextManager[list[np.ndarray[Any, Any]]]:
        """A block with the tensors of a forward in host memory."""
        if self._gpu is None:
            return contextlib.nullcontext([tensor.values for tensor in tensors])
        end = len(self._inputs)
        return library().cuda.on_host(self._gpu, tensors[:end], tensors[end:], stream)
