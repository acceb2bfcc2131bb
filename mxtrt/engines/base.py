"""What every engine offers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mxtrt.convert import OnnxSegment, WeightType

__all__ = ["Engine", "Weight"]


@dataclass(frozen=True, slots=True)
class Weight:
    """A weight and where its bytes are.

    Attributes:
        type: Name, shape and dtype.
        address: Address of its first byte, C-contiguous.
        array: Whatever has to stay alive for the address to be valid.
    """

    type: WeightType
    address: int
    array: Any


class Engine(Protocol):
    """An engine that this process can use."""

    @property
    def name(self) -> str:
        """Its name among the values of the option ``engine``."""

    @property
    def version(self) -> str:
        """Version of the engine's library."""

    def build(self, segment: OnnxSegment, weights: Sequence[Weight]) -> int:
        """Build a session and return its handle in the engine node's library.

        The weights' memory must outlive the session.

        Raises:
            EngineError: The engine refused the model; the message is the engine's own.
        """
