"""Bare TensorRT beside mxtrt: the engine of a bind run without MXNet, and times taken in turn."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Mapping

import numpy as np

from mxtrt.engines import BuildRequest
from mxtrt.engines.tensorrt.runtime import LoadedEngine
from mxtrt.node import library

ROUNDS, CALLS, UNTIMED = 12, 25, 5


def medians(calls: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Median microseconds of every call, measured in turn."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS + 1):
        for name, call in calls.items():
            for _ in range(UNTIMED):
                call()
            for _ in range(CALLS):
                begin = time.perf_counter()
                call()
                times[name].append(time.perf_counter() - begin)
    return {name: float(np.median(seen[CALLS:])) * 1e6 for name, seen in times.items()}


class Bare:
    """The engine of a bind, run by ``execute_async_v3`` and a wait, its data on the GPU."""

    def __init__(self, loaded: LoadedEngine, request: BuildRequest) -> None:
        self._driver = ctypes.CDLL("libcuda.so.1")
        stream, cuda = ctypes.c_void_p(), library().cuda
        assert not self._driver.cuStreamCreate(ctypes.byref(stream), 1)
        self._stream = stream
        context = loaded.context(request)
        buffers = [cuda.allocate(t.nbytes) for t in (*request.inputs, *request.outputs)]
        context.enqueue(buffers, cuda.allocate(max(loaded.scratch, 1)), stream.value)
        self._context = context._context

    def __call__(self) -> None:
        """Run once."""
        self._context.execute_async_v3(self._stream.value)
        self._driver.cuStreamSynchronize(self._stream)
