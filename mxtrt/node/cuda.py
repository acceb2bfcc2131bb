"""What the engine node does on NVIDIA GPUs, through the driver."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from mxtrt.errors import NodeError
from mxtrt.node.abi import ENQUEUE, LOST, MORE, RELEASE, Functions, Tensor

_log = logging.getLogger("mxtrt")

__all__ = ["Cuda", "CudaDevice", "CudaEngine", "CudaMemory", "CudaRangeEngine", "CudaUsage"]


class CudaDevice(NamedTuple):
    """A GPU: its name, compute capability and bytes of memory."""

    name: str
    capability: tuple[int, int]
    memory: int


class CudaMemory(NamedTuple):
    """A GPU's memory in bytes: free, all of it, and the scratch that its engines share."""

    free: int
    total: int
    scratch: int


class CudaUsage(NamedTuple):
    """What a session holds: CUDA graphs, and bytes of pinned host and of GPU memory."""

    graphs: int
    host: int
    device: int


class CudaEngine(Protocol):
    """An engine that a CUDA session runs."""

    def enqueue(self, addresses: Sequence[int], scratch: int, stream: int) -> None:
        """Put a run on a stream.

        Args:
            addresses: Device addresses of the inputs, then the outputs.
            scratch: Device address of the memory for activations.
            stream: A ``CUstream``.
        """


class CudaRangeEngine(Protocol):
    """An engine for many shapes that a CUDA session runs.

    Attributes:
        changes: For each of its contexts, how often its shapes were changed.
        uses: For each, which run of all was its last; behind these how many runs there were.  A run
            of a CUDA graph is counted for the engine.
    """

    changes: ctypes.Array[ctypes.c_int64]
    uses: ctypes.Array[ctypes.c_int64]

    def enqueue_at(
        self,
        addresses: Sequence[int],
        shapes: Sequence[tuple[int, ...]],
        scratch: int,
        stream: int,
    ) -> int:
        """Put a run on a stream.

        Args:
            addresses: Device addresses of the inputs, then the outputs.
            shapes: Shapes of the inputs.
            scratch: Device address of the memory for activations.
            stream: A ``CUstream``.

        Returns:
            Which of its contexts runs, from 0 on.
        """


class Cuda:
    """The CUDA functions of the engine node.

    Args:
        functions: The functions of the engine node.
    """

    def __init__(self, functions: Functions) -> None:
        self._functions = functions
        self._lib = functions.lib
        self._engines: dict[int, Any] = {}  # CudaEngine or CudaRangeEngine
        self._tokens = itertools.count(1)
        self._more: dict[int, Callable[[], None]] = {}
        self._callbacks = (
            ENQUEUE(self._on_enqueue),
            RELEASE(self._on_release),
            MORE(self._on_more),
            LOST(self._on_lost),
        )
        self._lib.mxtrt_cuda_callbacks(*self._callbacks)

    def count(self) -> int:
        """How many GPUs there are.

        Raises:
            NodeError: There is no driver.
        """
        count = ctypes.c_int()
        self._functions.checked(self._lib.mxtrt_cuda_count(ctypes.byref(count)))
        return count.value

    def device(self, ordinal: int = 0) -> CudaDevice:
        """A GPU, through the NVIDIA driver.

        Raises:
            NodeError: There is no driver, or no such GPU.
        """
        major, minor = ctypes.c_int(), ctypes.c_int()
        name, memory = ctypes.create_string_buffer(256), ctypes.c_size_t()
        self._functions.checked(
            self._lib.mxtrt_cuda_device(
                ordinal,
                name,
                len(name),
                ctypes.byref(major),
                ctypes.byref(minor),
                ctypes.byref(memory),
            )
        )
        return CudaDevice(name.value.decode(), (major.value, minor.value), memory.value)

    def make_current(self, ordinal: int) -> None:
        """Make a GPU the current one of this thread.

        Raises:
            NodeError: There is no driver, or no such GPU.
        """
        self._functions.checked(self._lib.mxtrt_cuda_make_current(ordinal))

    @contextlib.contextmanager
    def current(self, ordinal: int) -> Iterator[None]:
        """A block in which a GPU is the current one of this thread, for TensorRT's own calls.

        Raises:
            NodeError: There is no driver, or no such GPU.
        """
        before = self._lib.mxtrt_cuda_current()
        self.make_current(ordinal)
        try:
            yield
        finally:
            self._lib.mxtrt_cuda_restore(before)

    def stream(self, ordinal: int) -> int:
        """The ``CUstream`` of a GPU's engines.

        Raises:
            NodeError: There is no driver, or no such GPU.
        """
        stream: int = self._lib.mxtrt_cuda_stream(ordinal)
        if not stream:
            raise NodeError(self._functions.take_error())
        return stream

    def memory(self, ordinal: int = 0) -> CudaMemory:
        """How much memory a GPU has.

        Raises:
            NodeError: There is no driver, or no such GPU.
        """
        sizes = [ctypes.c_size_t() for _ in range(3)]
        self._functions.checked(
            self._lib.mxtrt_cuda_memory(ordinal, *(ctypes.byref(s) for s in sizes))
        )
        return CudaMemory(*(size.value for size in sizes))

    def allocate(self, size: int) -> int:
        """Address of new memory on the GPU that is current; 0 when there is none left."""
        address: int = self._lib.mxtrt_cuda_allocate(size)
        return address

    def free(self, address: int) -> None:
        """Free memory of :meth:`allocate`."""
        self._lib.mxtrt_cuda_free(address)

    def copy_out(
        self, ordinal: int, address: int, array: np.ndarray[Any, Any], stream: int = 0
    ) -> None:
        """Copy GPU memory to an array, behind what is on a stream, and wait for it.

        Args:
            ordinal: The GPU.
            address: Address of the first byte there.
            array: Where the bytes go, C-contiguous.
            stream: A ``CUstream``; 0 for that of the GPU's engines.

        Raises:
            NodeError: The copy, or what was on the stream, failed.
        """
        self._functions.checked(
            self._lib.mxtrt_cuda_copy_out(ordinal, array.ctypes.data, address, array.nbytes, stream)
        )

    def copy_in(
        self, ordinal: int, array: np.ndarray[Any, Any], address: int, stream: int = 0
    ) -> None:
        """Copy an array to GPU memory; the reverse of :meth:`copy_out`."""
        self._functions.checked(
            self._lib.mxtrt_cuda_copy_in(ordinal, address, array.ctypes.data, array.nbytes, stream)
        )

    @contextlib.contextmanager
    def on_host(
        self, ordinal: int, inputs: Sequence[Tensor], outputs: Sequence[Tensor], stream: int
    ) -> Iterator[list[np.ndarray[Any, Any]]]:
        """A block with copies of a forward's tensors; the outputs' go to the GPU at its end.

        Args:
            ordinal: The GPU.
            inputs: The inputs.
            outputs: The outputs; their copies are without values.
            stream: The ``CUstream`` on which MXNet runs the operator.

        Raises:
            NodeError: A copy, or what was on the stream, failed.
        """
        arrays = [np.empty(tensor.shape, tensor.dtype) for tensor in (*inputs, *outputs)]
        for tensor, array in zip(inputs, arrays, strict=False):
            self.copy_out(ordinal, tensor.address, array, stream)
        yield arrays
        for tensor, array in zip(outputs, arrays[len(inputs) :], strict=True):
            self.copy_in(ordinal, array, tensor.address, stream)

    def create_session(
        self,
        engine: CudaEngine,
        inputs: Sequence[int],
        outputs: Sequence[int],
        scratch: int,
        ordinal: int,
        *,
        on_device: bool,
        record: bool = True,
        lanes: int = 1,
        more: Callable[[int], None] | None = None,
    ) -> int:
        """A session of an engine; the engine runs once, so that what fails does so here.

        Args:
            engine: Lives as long as the session.
            inputs: Size of every input in bytes.
            outputs: Size of every output in bytes.
            scratch: Bytes of GPU memory for activations, shared with other sessions.
            ordinal: The GPU.
            on_device: Whether inputs and outputs are in GPU memory at a forward.
            record: Whether runs are recorded as CUDA graphs; otherwise every run calls
                ``engine.enqueue``.
            lanes: Lanes that the session may run on, of all GPUs.
            more: Called with the session's handle when runs overlap and it has fewer, from the
                thread of a run: returns at once, and in time has another lane opened or not, see
                :meth:`open_lane` and :meth:`lane_answered`.

        Returns:
            The session's handle.

        Raises:
            NodeError: CUDA or the engine failed; nothing of the session is left.
        """
        sizes = [*inputs, *outputs]
        token, handle = self._session(
            self._lib.mxtrt_cuda_session,
            engine,
            ordinal,
            (ctypes.c_size_t * len(sizes))(*sizes),
            len(inputs),
            len(outputs),
            ctypes.c_size_t(scratch),
            int(on_device),
            int(record),
            lanes,
        )
        if more is not None:
            self._more[token] = functools.partial(more, handle)
        return handle

    def open_lane(self, session: int, engine: CudaEngine, ordinal: int, most: int) -> None:
        """Have a session run on another lane of a GPU too.

        Args:
            session: Its handle.
            engine: Another context of its engine, which runs once.
            ordinal: The GPU.
            most: Lanes that this GPU may have.

        Raises:
            NodeError: The session is gone or runs on all of them, or CUDA or the engine failed.
        """
        with self._kept(engine) as token:
            self._functions.checked(self._lib.mxtrt_cuda_open_lane(session, token, ordinal, most))

    def lane_answered(self, session: int, more: bool) -> None:
        """Take note that a session was given another lane, or that it can have no more."""
        self._lib.mxtrt_cuda_lane_answered(session, int(more))

    def lanes(self, session: int, ordinal: int) -> int:
        """How many lanes of a GPU a session runs on.

        Raises:
            NodeError: The session is gone, or there is no such GPU.
        """
        count: int = self._lib.mxtrt_cuda_lanes(session, ordinal)
        if count < 0:
            raise NodeError(self._functions.take_error())
        return count

    def create_range_session(
        self,
        engine: CudaRangeEngine,
        inputs: Sequence[tuple[tuple[int, ...], int]],
        outputs: Sequence[int],
        scratch: int,
        ordinal: int,
        *,
        on_device: bool,
        record: bool = True,
    ) -> int:
        """A session of an engine for many shapes; the engine runs at the given ones.

        Args:
            engine: Lives as long as the session.
            inputs: Shape, and size in bytes, of every input.
            outputs: Size of every output in bytes.
            scratch: As for :meth:`create_session`, like the others.
            ordinal: The GPU.
            on_device: Whether inputs and outputs are in GPU memory at a forward.
            record: Whether runs at the same shapes are recorded as CUDA graphs.

        Returns:
            The session's handle.

        Raises:
            NodeError: CUDA or the engine failed; nothing of the session is left.
        """
        sizes = [*(size for _, size in inputs), *outputs]
        dims = [size for shape, _ in inputs for size in shape]
        return self._session(
            self._lib.mxtrt_cuda_range_session,
            engine,
            ordinal,
            (ctypes.c_size_t * len(sizes))(*sizes),
            (ctypes.c_int64 * len(dims))(*dims),
            (ctypes.c_int * len(inputs))(*(len(shape) for shape, _ in inputs)),
            len(inputs),
            len(outputs),
            ctypes.c_size_t(scratch),
            int(on_device),
            int(record),
            engine.changes,
            engine.uses,
            len(engine.changes),
        )[1]

    def _session(
        self,
        create: Callable[..., Any],
        engine: CudaEngine | CudaRangeEngine,
        ordinal: int,
        *facts: Any,
    ) -> tuple[int, int]:
        """The engine's token, and the handle of a session that a function creates of it.

        Raises:
            NodeError: It did not; the engine is let go.
        """
        with self._kept(engine) as token:
            handle: int = create(ordinal, ctypes.c_int64(token), *facts)
            if not handle:
                raise NodeError(self._functions.take_error())
        return token, handle

    @contextlib.contextmanager
    def _kept(self, engine: CudaEngine | CudaRangeEngine) -> Iterator[int]:
        """A block that gives an engine to the library, under a token; see _on_release.

        What the block raises means that it did not take it.
        """
        token = next(self._tokens)
        self._engines[token] = engine
        try:
            yield token
        except NodeError:
            self._engines.pop(token, None)
            raise

    def unrecordable(self, session: int) -> str:
        """Why every run of a session calls ``engine.enqueue``; empty when CUDA graphs do it."""
        reason: bytes = self._lib.mxtrt_cuda_unrecordable(session)
        return reason.decode(errors="replace")

    def usage(self, session: int) -> CudaUsage:
        """What a CUDA session holds.

        Raises:
            NodeError: The session is gone.
        """
        graphs, host, device = ctypes.c_int64(), ctypes.c_size_t(), ctypes.c_size_t()
        self._functions.checked(
            self._lib.mxtrt_cuda_usage(
                ctypes.c_int64(session),
                ctypes.byref(graphs),
                ctypes.byref(host),
                ctypes.byref(device),
            )
        )
        return CudaUsage(graphs.value, host.value, device.value)

    def _on_enqueue(
        self,
        token: int,
        addresses: Any,
        count: int,
        dims: Any,
        ndims: Any,
        num_inputs: int,
        scratch: int,
        stream: int,
    ) -> int:
        engine, given = self._engines[token], addresses[:count]
        if not ndims:
            return self._functions.guarded(engine.enqueue)(given, scratch, stream)
        sizes = iter(dims[: sum(ndims[:num_inputs])])
        shapes = [tuple(itertools.islice(sizes, axes)) for axes in ndims[:num_inputs]]
        context: list[int] = []
        run = self._functions.guarded(
            lambda: context.append(engine.enqueue_at(given, shapes, scratch, stream))
        )
        return run() and context[0] + 1

    def _on_release(self, token: int) -> None:
        self._engines.pop(token, None)
        self._more.pop(token, None)

    def _on_more(self, token: int) -> None:
        if (more := self._more.get(token)) is not None:
            more()

    def _on_lost(self, token: int, message: bytes) -> None:
        _log.warning(
            "a GPU failed, and other GPUs answer in its place: %s", message.decode(errors="replace")
        )
