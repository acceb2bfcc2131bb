"""A bare engine on a GPU, driven from C: recorded runs, and threads that launch them.

``closed_loop.c`` is compiled where it is needed, with this machine's compiler.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mxtrt.node import library
from mxtrt.node.cuda import CudaEngine
from mxtrt.perf.load import Burst

_SOURCE = Path(__file__).with_name("closed_loop.c")
_FLAGS = ("-std=c11", "-O2", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fPIC", "-shared")
_NON_BLOCKING, _RELAXED = 1, 2  # streams and captures, as the engine node has them
_PROBLEMS = {-1: "there is no libcuda.so.1 with what it needs", -2: "a thread did not start"}


class MissingError(Exception):
    """Why the bare engine is left out, in one sentence."""


def compiled(folder: Path) -> ctypes.CDLL:
    """The loop in C as a library.

    Args:
        folder: Where it is written.

    Raises:
        MissingError: This machine has no C compiler.
    """
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise MissingError(
            "bare TensorRT is driven from C and this machine has no C compiler (cc); install gcc"
        )
    path = folder / "closed_loop.so"
    subprocess.run([compiler, *_FLAGS, _SOURCE, "-o", path, "-ldl", "-pthread"], check=True)
    return ctypes.CDLL(str(path))


class _Driver:
    """NVIDIA's driver, each function by its name in ``cuda.h``."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libcuda.so.1")

    def __call__(self, name: str, *arguments: object) -> None:
        code = getattr(self._library, name)(*arguments)
        if code:
            text = ctypes.c_char_p()
            self._library.cuGetErrorString(code, ctypes.byref(text))
            raise RuntimeError(f"{name} failed: {(text.value or b'').decode()}")

    def made(self, name: str, *arguments: object) -> ctypes.c_void_p:
        """What a function gives back through its first argument."""
        handle = ctypes.c_void_p()
        self(name, ctypes.byref(handle), *arguments)
        return handle


class _Lane(ctypes.Structure):
    """``Recorded`` in C."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("context", "executable", "stream")]


class Recorded:
    """One run of an engine as a CUDA graph, with a stream and memory of its own.

    Args:
        engine: The engine, which nothing else runs.
        inputs: Bytes of each of its inputs.
        outputs: Bytes of each of its outputs.
        scratch: Bytes of its scratch memory.
        on_host: Whether the data is in host memory, and copied within the graph.

    Attributes:
        host: The inputs, then the outputs, where they are in host memory.
        lane: What C launches.
    """

    def __init__(
        self,
        engine: CudaEngine,
        inputs: Sequence[int],
        outputs: Sequence[int],
        scratch: int,
        *,
        on_host: bool,
    ) -> None:
        self._engine, self._driver = engine, _Driver()
        self._inputs = len(inputs)
        library().cuda.make_current(0)
        context = self._driver.made("cuCtxGetCurrent")
        self._stream = self._driver.made("cuStreamCreate", _NON_BLOCKING)
        sizes = (*inputs, *outputs)
        self._buffers = [self._allocated(size) for size in sizes]
        self._scratch = self._allocated(max(scratch, 1))
        self._pinned = [
            self._driver.made("cuMemAllocHost_v2", ctypes.c_size_t(size))
            for size in (sizes if on_host else ())
        ]
        self.host = [
            np.frombuffer((ctypes.c_char * size).from_address(pinned.value or 0), np.uint8)
            for pinned, size in zip(self._pinned, sizes, strict=False)
        ]
        self._run()  # what an engine does once only is not for the graph
        self._driver("cuStreamSynchronize", self._stream)
        self._driver("cuStreamBeginCapture_v2", self._stream, _RELAXED)
        self._run()
        graph = ctypes.c_void_p()
        self._driver("cuStreamEndCapture", self._stream, ctypes.byref(graph))
        no_flags = ctypes.c_ulonglong(0)
        self._executable = self._driver.made("cuGraphInstantiateWithFlags", graph, no_flags)
        self._driver("cuGraphDestroy", graph)
        self.lane = _Lane(context, self._executable, self._stream)

    def _allocated(self, size: int) -> int:
        address = library().cuda.allocate(size)
        if not address:
            raise MissingError(f"the GPU has no {size} bytes left for bare TensorRT")
        return address

    def _run(self) -> None:
        """Put a run on the stream, with the copies if there are any."""
        buffers = [ctypes.c_uint64(address) for address in self._buffers]
        copied = list(zip(buffers, self._pinned, self.host, strict=False))
        for buffer, pinned, array in copied[: self._inputs]:
            size = ctypes.c_size_t(array.nbytes)
            self._driver("cuMemcpyHtoDAsync_v2", buffer, pinned, size, self._stream)
        self._engine.enqueue(self._buffers, self._scratch, self._stream.value or 0)
        for buffer, pinned, array in copied[self._inputs :]:
            size = ctypes.c_size_t(array.nbytes)
            self._driver("cuMemcpyDtoHAsync_v2", pinned, buffer, size, self._stream)

    def close(self) -> None:
        """Give back what it has on the GPU."""
        library().cuda.make_current(0)
        self._driver("cuGraphExecDestroy", self._executable)
        self._driver("cuStreamDestroy_v2", self._stream)
        for address in (*self._buffers, self._scratch):
            library().cuda.free(address)
        self.host.clear()
        for pinned in self._pinned:
            self._driver("cuMemFreeHost", pinned)


class DrivenLoop:
    """A :class:`mxtrt.perf.load.Loop` whose threads are C's.

    Args:
        loop: What :func:`compiled` made.
        recorded: What each thread launches; closed with the loop.
        requests: Requests of a burst.
    """

    def __init__(self, loop: ctypes.CDLL, recorded: Sequence[Recorded], requests: int) -> None:
        self.requests = requests
        self.bursts: list[Burst] = []
        self._loop = loop
        self._recorded = recorded
        self._lanes = (_Lane * len(recorded))(*(one.lane for one in recorded))

    def __call__(self) -> None:
        """Send a burst.

        Raises:
            RuntimeError: The driver failed.
        """
        begins, ends = (np.zeros(self.requests, np.int64) for _ in range(2))
        places = [ctypes.c_void_p(array.ctypes.data) for array in (begins, ends)]
        requests = ctypes.c_long(self.requests)
        code = self._loop.closed_loop(self._lanes, len(self._lanes), requests, *places)
        if code:
            reason = _PROBLEMS.get(code, f"the driver failed with {code}")
            raise RuntimeError(f"the loop of bare TensorRT broke off: {reason}")
        seconds = float(ends.max() - begins.min()) * 1e-9
        self.bursts.append(Burst(seconds, [float(s) for s in (ends - begins) * 1e-9]))

    def close(self) -> None:
        """Give back what it has on the GPU."""
        for one in self._recorded:
            one.close()
