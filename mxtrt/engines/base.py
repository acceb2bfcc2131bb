"""What every engine offers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mxtrt.config import Options
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

    @property
    def static_shapes(self) -> bool:
        """Whether a session serves one set of input shapes only."""

    def build(
        self,
        segment: OnnxSegment,
        weights: Sequence[Weight],
        inputs: Sequence[Sequence[int]],
        outputs: Sequence[Sequence[int]],
        options: Options,
    ) -> int:
        """Build a session and return its handle in the engine node's library.

        Args:
            segment: The model.
            weights: Its weights; their memory must outlive the session.
            inputs: Input shapes that the session will see first.
            outputs: Output shapes at these.
            options: Options of the bind.

        Raises:
            EngineError: The engine refused the model; the message is the engine's own.
        """
