"""Loaded engines, and contexts that run them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from mxtrt.engines.base import BuildRequest, MemoryTally
from mxtrt.engines.tensorrt.api import Api
from mxtrt.errors import EngineError
from mxtrt.node import library
from mxtrt.system.threads import lock

__all__ = ["Context", "LoadedEngine", "Runtime"]


class Runtime:
    """TensorRT's runtime on one GPU, with an allocator that counts.

    Args:
        api: TensorRT.
        ordinal: The GPU.
    """

    def __init__(self, api: Api, ordinal: int) -> None:
        self.api = api
        self.ordinal = ordinal
        library().cuda.make_current(ordinal)
        if register := getattr(api.trt, "init_libnvinfer_plugins", None):
            # What the parser takes for some nodes: it is registered where the parser is, elsewhere.
            register(api.logger, "")
        self._allocator = _make_allocator(api.trt)
        self._runtime = api.trt.Runtime(api.logger)
        self._runtime.gpu_allocator = self._allocator

    def load(self, plan: bytes | memoryview) -> LoadedEngine:
        """Load a serialized engine.

        Raises:
            EngineError: TensorRT refused it.
        """
        library().cuda.make_current(self.ordinal)
        self.api.forget_errors()
        tally = MemoryTally()
        with self.counting(tally):
            engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise EngineError(f"TensorRT did not load its engine: {self.api.errors()}")
        return LoadedEngine(self, engine, tally)

    def counting(self, tally: MemoryTally) -> AbstractContextManager[None]:
        """Count what this thread allocates meanwhile in a tally."""
        counting: AbstractContextManager[None] = self._allocator.counting(tally)
        return counting


class LoadedEngine:
    """An engine on a GPU; any number of contexts run it, with one copy of its weights.

    Attributes:
        tally: The GPU memory that it and its contexts hold, without activations.
        scratch: Bytes of GPU memory that a context needs for activations.
    """

    def __init__(self, runtime: Runtime, engine: Any, tally: MemoryTally) -> None:
        self.runtime = runtime
        self.engine = engine
        self.tally = tally
        newer = hasattr(engine, "device_memory_size_v2")
        size = engine.device_memory_size_v2 if newer else engine.device_memory_size
        self.scratch = int(size)

    def context(self, request: BuildRequest) -> Context:
        """A context for the request's shapes.

        Raises:
            EngineError: TensorRT made none, or the engine's tensors are of other types.
        """
        trt, engine = self.runtime.api.trt, self.engine
        names = (*request.segment.inputs, *request.segment.outputs)
        tensors = (*request.inputs, *request.outputs)
        for name, tensor in zip(names, tensors, strict=True):
            theirs = np.dtype(trt.nptype(engine.get_tensor_dtype(name)))
            if theirs != tensor.dtype:
                raise EngineError(f"TensorRT takes {name} as {theirs}, MXNet has {tensor.dtype}")
        ordinal = self.runtime.ordinal
        library().cuda.make_current(ordinal)
        self.runtime.api.forget_errors()
        with self.runtime.counting(self.tally):
            if hasattr(engine, "create_execution_context_without_device_memory"):
                context = engine.create_execution_context_without_device_memory()
            else:
                strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
                context = engine.create_execution_context(strategy)
        if context is None:
            raise EngineError(f"TensorRT made no context: {self.runtime.api.errors()}")
        if (
            request.batches is not None
            and context.active_optimization_profile < 0  # the first context has it by itself
            and not context.set_optimization_profile_async(0, library().cuda.stream(ordinal))
        ):
            raise EngineError(f"TensorRT's profile is in use: {self.runtime.api.errors()}")
        for name, tensor in zip(request.segment.inputs, request.inputs, strict=True):
            if not context.set_input_shape(name, tensor.shape):
                raise EngineError(
                    f"TensorRT does not take the shape {tensor.shape} of {name}: "
                    f"{self.runtime.api.errors()}"
                )
        return Context(self, context, names)


class Context:
    """Runs an engine at one set of shapes; a :class:`mxtrt.node.cuda.CudaEngine`."""

    def __init__(self, loaded: LoadedEngine, context: Any, names: Sequence[str]) -> None:
        self._loaded = loaded  # TensorRT wants engines to outlive their contexts
        self._context = context
        self._names = tuple(names)
        self._scratch = 0

    def enqueue(self, addresses: Sequence[int], scratch: int, stream: int) -> None:
        """Put a run on a stream.

        Raises:
            EngineError: TensorRT refused.
        """
        context = self._context
        if scratch and scratch != self._scratch:
            if hasattr(context, "set_device_memory"):
                context.set_device_memory(scratch, self._loaded.scratch)
            else:
                context.device_memory = scratch
            self._scratch = scratch
        for name, address in zip(self._names, addresses, strict=True):
            context.set_tensor_address(name, address)
        if not context.execute_async_v3(stream):
            api = self._loaded.runtime.api
            raise EngineError(f"TensorRT did not run the engine: {api.errors()}")


def _make_allocator(trt: Any) -> Any:
    class Allocator(trt.IGpuAllocator):  # type: ignore[misc]
        """Allocates through the engine node, and keeps count of who holds what.

        Every method of TensorRT's interface is there, of all its versions.
        """

        def __init__(self) -> None:
            trt.IGpuAllocator.__init__(self)
            self._current = threading.local()
            self._held: dict[int, tuple[int, MemoryTally]] = {}
            self._lock = lock()

        @contextlib.contextmanager
        def counting(self, tally: MemoryTally) -> Iterator[None]:
            self._current.tally = tally
            try:
                yield
            finally:
                self._current.tally = None

        def allocate(self, size: int, alignment: int, flags: int) -> int:
            address = library().cuda.allocate(size) if size else 0
            if address:
                tally = getattr(self._current, "tally", None) or MemoryTally()
                with self._lock:
                    self._held[address] = size, tally
                    tally.bytes += size
            return address

        def deallocate(self, memory: int) -> bool:
            with self._lock:
                size, tally = self._held.pop(memory, (0, MemoryTally()))
                tally.bytes -= size
            if memory:
                library().cuda.free(memory)
            return True

        def free(self, memory: int) -> None:
            self.deallocate(memory)

        def reallocate(self, address: int, alignment: int, new_size: int) -> int:
            return 0  # "cannot be resized where it is", and TensorRT allocates anew

        def allocate_async(self, size: int, alignment: int, flags: int, stream: int) -> int:
            return self.allocate(size, alignment, flags)

        def deallocate_async(self, memory: int, stream: int) -> bool:
            return self.deallocate(memory)

    return Allocator()
