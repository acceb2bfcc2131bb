"""What the library of the engine node asks of Python: new input shapes, and engines that failed."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Protocol

from mxtrt.errors import EngineError, NodeError
from mxtrt.graph.symbol import Shapes
from mxtrt.node.abi import Tensor
from mxtrt.observe.counters import count

__all__ = ["engine_failed", "infer_shapes", "nodes"]


class _Node(Protocol):
    """A :class:`mxtrt.plan.engine_node.EngineNode`."""

    inputs: tuple[str, ...]

    def infer(self, shapes: Shapes) -> None:
        """Serve input shapes."""

    def bring_back(self, shapes: Shapes) -> None:
        """Describe input shapes that were forgotten, for a forward that is under way."""

    def is_built(self, shapes: Shapes) -> bool:
        """Whether there is an engine for input shapes."""

    def retire(self, message: str) -> None:
        """Run the engines no more."""

    def compute(self, tensors: Sequence[Tensor], stream: int = 0) -> None:
        """Compute the outputs in plain MXNet."""


#: The engine nodes that live, by key.
nodes: weakref.WeakValueDictionary[int, _Node] = weakref.WeakValueDictionary()


def infer_shapes(key: int, shapes: Shapes, in_forward: bool) -> None:
    """Serve a request of MXNet's shape inference for an engine node, or of one of its forwards.

    Raises:
        EngineError: The node is gone, or does not accept the shapes.
    """
    node = nodes.get(key)
    if node is None:
        raise EngineError(f"engine {key} was released; partition the symbol again")
    if in_forward:
        node.bring_back(shapes)
    else:
        node.infer(shapes)


def engine_failed(
    key: int, message: str, tensors: Sequence[Tensor] | None, stream: int = 0
) -> None:
    """Serve an engine node whose engine failed.

    Args:
        key: The node.
        message: The engine's own words.
        tensors: Its inputs and outputs if MXNet's operators can take over at once.
        stream: The ``CUstream`` on which MXNet runs the node, for tensors on a GPU.

    Raises:
        EngineError: They could not.
    """
    node = nodes.get(key)
    if node is None:
        raise EngineError(message)
    if tensors is None:
        node.retire(message)
        raise EngineError(message)
    if node.is_built(tuple(tensor.shape for tensor in tensors[: len(node.inputs)])):
        node.retire(message)
    count("fallbacks")
    try:
        node.compute(tensors, stream)
    except (EngineError, NodeError, OSError) as error:
        raise EngineError(f"{message}; and MXNet's operators did not take over: {error}") from error
