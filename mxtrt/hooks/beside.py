"""What has MXNet answer from copies of weights, while an engine is being built.

Where MXNet's operators move weights in memory (:mod:`mxtrt.weights.layouts`), they must not do it
while engines read them there.  The copies are made when they are first needed, and go when the
engine is there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from mxnet.ndarray import NDArray

from mxtrt.node import library
from mxtrt.node.watch import Watch
from mxtrt.system.threads import lock

__all__ = ["Beside"]

_T = TypeVar("_T")


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
