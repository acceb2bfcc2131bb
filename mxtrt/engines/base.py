"""What every engine offers."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from mxtrt.config import Options
from mxtrt.convert.segment import OnnxSegment, WeightType
from mxtrt.engines.ranges import Ranges
from mxtrt.graph.symbol import TensorType
from mxtrt.node import library
from mxtrt.weights.baseline import Baseline
from mxtrt.weights.paging import in_host_memory

__all__ = ["BuildRequest", "Engine", "MemoryTally", "Session", "Weight"]


@dataclass(frozen=True, slots=True)
class Weight:
    """A weight and where its bytes are.

    Attributes:
        type: Name, shape and dtype.
        address: Address of its first byte in host memory, C-contiguous.
        array: Whatever has to stay alive for the address to be valid.
    """

    type: WeightType
    address: int
    array: Any

    @classmethod
    def of(cls, kind: WeightType, array: Any) -> Weight:
        """A weight whose bytes are those of a dense NDArray; of one on a GPU, those of a copy."""
        return cls(kind, *in_host_memory(array))

    @property
    def data(self) -> memoryview:
        """The bytes where they are, which stay there for as long as this is read."""
        memory = (ctypes.c_char * self.type.nbytes).from_address(self.address)
        memory.array = self.array  # type: ignore[attr-defined]
        return memoryview(memory)

    @property
    def values(self) -> np.ndarray[Any, Any]:
        """The bytes where they are, as an array."""
        return np.frombuffer(self.data, self.type.dtype).reshape(self.type.shape)


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """A session to build.

    Attributes:
        segment: The model.
        weights: Its weights; their memory must outlive the session: ONNX Runtime reads it.
        inputs: Types of the inputs that the session will see, shapes and dtypes known.
        outputs: Types of the outputs at these.
        options: Options of the bind.
        gpu: The GPU that inputs and outputs are on, None for host memory.
        ranges: Input shapes that the session is to serve, ``inputs`` among them; None for these
            alone.
    """

    segment: OnnxSegment
    weights: Sequence[Weight]
    inputs: Sequence[TensorType]
    outputs: Sequence[TensorType]
    options: Options
    gpu: int | None = None
    ranges: Ranges | None = None


class MemoryTally:
    """GPU memory that an engine holds, shared by the sessions of that engine.

    Attributes:
        bytes: How much it is now.
        elsewhere: What the same engine holds on other GPUs.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self.elsewhere: dict[int, MemoryTally] = {}


class Session:
    """A built session; it goes with the last reference to it.

    Args:
        handle: Its handle in the engine node's library.
        gpu_memory: What its engine holds on a GPU; None for an engine in host memory.
        gpu: That GPU.
        notes: What a person should know of it.
        weights: Weights that it reads where they are.
        content: Digest of its serialized engine, where that serves ranges of shapes.

    Attributes:
        baseline: Of the NDArrays among these weights, since it was built.
    """

    def __init__(
        self,
        handle: int,
        gpu_memory: MemoryTally | None = None,
        gpu: int = 0,
        notes: tuple[str, ...] = (),
        weights: Sequence[Weight] = (),
        content: str = "",
    ) -> None:
        self.handle = handle
        self.gpu_memory = gpu_memory
        self.gpu = gpu
        self.notes = notes
        self.weights = tuple(weights)
        self.content = content
        self.weight_bytes = sum(weight.type.nbytes for weight in weights)
        self.baseline = Baseline()
        weakref.finalize(self, library().release, handle).atexit = False

    def arrays(self) -> list[Any]:
        """The NDArrays among the weights that it reads where they are."""
        from mxnet.ndarray import NDArray

        return [w.array for w in self.weights if isinstance(w.array, NDArray)]


class Engine(Protocol):
    """An engine that this process can use."""

    @property
    def name(self) -> str:
        """Its name among the values of the option ``engine``."""

    @property
    def version(self) -> str:
        """Version of the engine's library."""

    @property
    def contexts(self) -> tuple[str, ...]:
        """Device types of the MXNet contexts whose graphs it runs."""

    @property
    def dtypes(self) -> Collection[np.dtype[Any]]:
        """Dtypes of the tensors that it takes; a node with another one stays in MXNet."""

    @property
    def on_cpu(self) -> bool:
        """Whether it computes on the CPU, as MXNet's operators for host memory do."""

    @property
    def opset(self) -> int:
        """The newest ONNX operator set whose operators it has."""

    @property
    def computes_float16(self) -> bool:
        """Whether it has float16 arithmetic."""

    @property
    def static_shapes(self) -> bool:
        """Whether a session serves one set of input shapes only."""

    @property
    def takes_ranges(self) -> bool:
        """Whether a session can be built for ranges of shapes where it serves one otherwise."""

    @property
    def shares_sessions(self) -> bool:
        """Whether a session may serve several engine nodes."""

    def build(self, request: BuildRequest) -> Session:
        """Build a session.

        Raises:
            RefusedNodesError: The engine refused nodes; without them it may take the rest.
            EngineError: The engine refused the model; the message is the engine's own.
        """
