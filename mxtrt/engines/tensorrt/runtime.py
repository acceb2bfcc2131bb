"""Loaded engines, and contexts that run them."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from mxtrt.engines.base import BuildRequest, MemoryTally
from mxtrt.engines.ranges import Ranges
from mxtrt.engines.tensorrt.api import Api
from mxtrt.errors import EngineError
from mxtrt.graph.symbol import Shapes
from mxtrt.node import library
from mxtrt.system.threads import lock

__all__ = ["Context", "Contexts", "LoadedEngine", "Runtime"]

_log = logging.getLogger("mxtrt")


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
        content: Digest of the serialized engine, where that serves ranges of shapes.
    """

    def __init__(self, runtime: Runtime, engine: Any, tally: MemoryTally) -> None:
        self.runtime = runtime
        self.engine = engine
        self.tally = tally
        self.content = ""
        newer = hasattr(engine, "device_memory_size_v2")
        size = engine.device_memory_size_v2 if newer else engine.device_memory_size
        self.scratch = int(size)
        self._contexts: weakref.ref[Contexts] | None = None
        self._elsewhere: dict[int, LoadedEngine] = {}
        self._lock = lock()

    def context(self, request: BuildRequest) -> Context:
        """A context for the request's shapes.

        Raises:
            EngineError: TensorRT made none, or the engine's tensors are of other types.
        """
        names = self._check(request)
        context = Context(self, self.make_context(), names)
        context.set_shapes([tensor.shape or () for tensor in request.inputs])
        return context

    def on(self, runtime: Runtime) -> LoadedEngine:
        """The same engine on the GPU of a runtime, which is of this GPU's kind; loaded once.

        Raises:
            EngineError: TensorRT refused it.
        """
        ordinal = runtime.ordinal
        if ordinal == self.runtime.ordinal:
            return self
        with self._lock:
            if ordinal not in self._elsewhere:
                made = runtime.load(memoryview(self.engine.serialize()))
                self._elsewhere[ordinal] = made
                self.tally.elsewhere[ordinal] = made.tally
        return self._elsewhere[ordinal]

    def contexts(self, request: BuildRequest) -> Contexts:
        """Its contexts, one for each of the request's optimization profiles.

        Raises:
            EngineError: TensorRT made none, or the engine's tensors are of other types.
        """
        names = self._check(request)
        with self._lock:
            made = None if self._contexts is None else self._contexts()
            if made is None:
                assert request.ranges is not None
                made = Contexts(self, request.ranges, names)
                self._contexts = weakref.ref(made)
        return made

    def _check(self, request: BuildRequest) -> tuple[str, ...]:
        """See that the tensors are of the request's types; their names."""
        trt, engine = self.runtime.api.trt, self.engine
        names = (*request.segment.inputs, *request.segment.outputs)
        tensors = (*request.inputs, *request.outputs)
        for name, tensor in zip(names, tensors, strict=True):
            theirs = np.dtype(trt.nptype(engine.get_tensor_dtype(name)))
            if theirs != tensor.dtype:
                raise EngineError(f"TensorRT takes {name} as {theirs}, MXNet has {tensor.dtype}")
        return names

    def make_context(self, profile: int | None = None) -> Any:
        """A context of TensorRT's, of one of the engine's profiles.

        Raises:
            EngineError: TensorRT made none.
        """
        trt, engine, api = self.runtime.api.trt, self.engine, self.runtime.api
        ordinal = self.runtime.ordinal
        library().cuda.make_current(ordinal)
        api.forget_errors()
        with self.runtime.counting(self.tally):
            if hasattr(engine, "create_execution_context_without_device_memory"):
                context = engine.create_execution_context_without_device_memory()
            else:
                strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
                context = engine.create_execution_context(strategy)
            if context is None:
                raise EngineError(f"TensorRT made no context: {api.errors()}")
            if (
                profile is not None
                and context.active_optimization_profile != profile  # the first has it by itself
                and not context.set_optimization_profile_async(
                    profile, library().cuda.stream(ordinal)
                )
            ):
                raise EngineError(f"TensorRT does not take its profile: {api.errors()}")
        return context


class Context:
    """Runs an engine at the shapes that it was told; a :class:`mxtrt.node.cuda.CudaEngine`."""

    def __init__(self, loaded: LoadedEngine, context: Any, names: Sequence[str]) -> None:
        self._loaded = loaded  # TensorRT wants engines to outlive their contexts
        self._context = context
        self._names = tuple(names)
        self._shapes: Sequence[tuple[int, ...]] = ()
        self._scratch = 0

    def another(self, runtime: Runtime) -> Context:
        """Another context of the engine, on the GPU of a runtime, at the same shapes.

        Raises:
            EngineError: TensorRT made none.
        """
        loaded = self._loaded.on(runtime)
        made = Context(loaded, loaded.make_context(), self._names)
        made.set_shapes(self._shapes)
        return made

    def set_shapes(self, shapes: Sequence[tuple[int, ...]]) -> None:
        """Set the shapes of the inputs.

        Raises:
            EngineError: TensorRT does not take one.
        """
        for name, shape in zip(self._names, shapes, strict=False):
            if not self._context.set_input_shape(name, shape):
                said = self._loaded.runtime.api.errors()
                raise EngineError(f"TensorRT does not take the shape {shape} of {name}: {said}")
        self._shapes = shapes

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


class Contexts:
    """Runs an engine at many shapes; a :class:`mxtrt.node.cuda.CudaRangeEngine`.

    There are a few contexts for each profile.  Shapes that come back find theirs as it was, as
    long as there are not more of them than contexts.  All sessions of the engine use them, in
    turns.

    Args:
        loaded: The engine.
        ranges: The shapes that it serves.
        names: Names of its inputs, then outputs.

    Attributes:
        changes: For each context, how often its shapes were changed.
        uses: For each, which run was its last; behind these how many there were.
    """

    def __init__(self, loaded: LoadedEngine, ranges: Ranges, names: Sequence[str]) -> None:
        api = loaded.runtime.api
        self._loaded, self._names = loaded, tuple(names)
        self._ranges = ranges
        profiles = range(len(ranges.profiles))
        #: For each context its profile, as the ranges count them.
        self._places = [place for _ in range(api.profile_contexts) for place in profiles]
        self._contexts: dict[int, Context] = {}  # those that there are, by their number
        self._shapes: dict[int, Shapes] = {}  # that they are at
        self._numbers: dict[Shapes, int] = {}  # the same by shapes
        self.changes = (ctypes.c_int64 * len(self._places))()
        self.uses = (ctypes.c_int64 * (len(self._places) + 1))()
        for number in profiles:  # the others come when they are needed
            self._contexts[number] = self._made(number)

    def enqueue_at(
        self,
        addresses: Sequence[int],
        shapes: Sequence[tuple[int, ...]],
        scratch: int,
        stream: int,
    ) -> int:
        """Put a run on a stream; see :class:`mxtrt.node.cuda.CudaRangeEngine`.

        Raises:
            EngineError: TensorRT refused, or no profile is for the shapes.
        """
        given = tuple(shapes)
        number = self._numbers.get(given)
        if number is None:
            number = self._number_for(given)
            self.changes[number] += 1
            self._numbers.pop(self._shapes.pop(number, ()), None)
            self._contexts[number].set_shapes(given)
            self._shapes[number], self._numbers[given] = given, number
        self._contexts[number].enqueue(addresses, scratch, stream)
        self.uses[-1] += 1
        self.uses[number] = self.uses[-1]
        return number

    def _number_for(self, shapes: Shapes) -> int:
        """The context for shapes that none is at: a new one, or the one used least lately.

        Raises:
            EngineError: No profile is for them.
        """
        place = self._ranges.place(shapes)
        if place is None:
            raise EngineError(f"no profile of the engine is for input shapes {shapes}")
        numbers = [number for number, one in enumerate(self._places) if one == place]
        for number in numbers:
            if not self.uses[number]:
                try:
                    if number not in self._contexts:
                        self._contexts[number] = self._made(number)
                    return number
                except EngineError as error:
                    _log.debug("an engine has fewer contexts: %s", error)
                    break
        used = (number for number in numbers if self.uses[number])
        return min(used, key=self.uses.__getitem__, default=place)

    def _made(self, number: int) -> Context:
        shared = self._loaded.runtime.api.shares_profiles
        profile = self._places[number] if shared else number
        return Context(self._loaded, self._loaded.make_context(profile), self._names)


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
