"""What has MXNet answer from copies of weights, while an engine is being built.

Where MXNet's operators move weights in memory (:mod:`mxtrt.weights.layouts`), they must not do it
while engines read them there; and where they have states, each forward counts as a write to these,
after which an engine is not used that was built meanwhile.  The copies are made when they are first
needed, and go when the engine is there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Generic, TypeVar

from mxnet.ndarray import NDArray

from mxtrt.graph.symbol import Graph
from mxtrt.node import library
from mxtrt.node.watch import Watch
from mxtrt.system.threads import lock
from mxtrt.weights.layouts import moved_by_mxnet

__all__ = ["Beside", "touches"]

_T = TypeVar("_T")


def touches(symbol: Any, weights: Collection[str] | None = None) -> bool:
    """Whether MXNet's operators move weights at inference, or have states.

    Args:
        symbol: The symbol.
        weights: Names of the weights; None for all variables.
    """
    return bool(symbol.list_auxiliary_states()) or moved_by_mxnet(Graph.of(symbol), weights)


class Beside(Generic[_T]):
    """What answers from copies of some weights.

    Args:
        weights: The weights by name.
        make: Makes it of their copies.
    """

    def __init__(
        self, weights: Mapping[str, NDArray], make: Callable[[Mapping[str, NDArray]], _T]
    ) -> None:
        self._weights = weights
        self._make = make
        self._lock = lock()
        self._made: tuple[Watch, _T] | None = None

    def __call__(self) -> _T:
        """What answers with the present values of the weights.

        Raises:
            MXNetError: A pending write failed.
        """
        with self._lock:
            if self._made is not None and not self._made[0].changed():
                return self._made[1]
            watch = library().watch(list(self._weights.values()))  # before they are read
            copies = {name: array.copyto(array.ctx) for name, array in self._weights.items()}
            made = self._make(copies)
            self._made = watch, made
            return made
