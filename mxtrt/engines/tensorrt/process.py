"""Builds in a process of their own.

TensorRT's builder keeps more than a gigabyte of host memory and half of one of GPU memory for as
long as its process lives, and a graph that it crashes on takes the process along.  This process
has neither: another one builds, and ends when nothing was built for a while.
"""

from __future__ import annotations

import ctypes
import dataclasses
import logging
import os
import threading

import numpy as np

from mxtrt.engines.tensorrt.api import Api, load_api
from mxtrt.engines.tensorrt.builder import Blueprint, build_plan
from mxtrt.errors import EngineError, RefusedNodesError
from mxtrt.node.library import PATH
from mxtrt.system.child import Arrays, Child, Header, serve
from mxtrt.system.threads import lock

__all__ = ["BuilderProcess", "main"]

_log = logging.getLogger("mxtrt")

# Seconds in which TensorRT logs nothing, not even a tactic that it tried, after which it is stuck.
_PATIENCE = 600.0

# Seconds in which the process is to load TensorRT.
_START = 120.0

# Seconds without a build after which the process ends: a bind may have another segment.
_IDLE = 10.0


class BuilderProcess:
    """Where engines are built: a process that starts when there is something to build.

    Where none can be had (the GPU is for one process only), they are built in this one.

    Args:
        api: TensorRT.
        idle: Seconds without a build after which the process ends; a few by default.
    """

    def __init__(self, api: Api, idle: float | None = None) -> None:
        self._api = api
        self._idle = idle
        self._child: Child | None = None
        self._lock = lock()
        self._end = threading.Timer(0, lambda: None)

    def build(
        self, blueprint: Blueprint, timing_cache: bytes, gpu: int | None
    ) -> tuple[bytes, bytes]:
        """Build an engine.

        Args:
            blueprint: What to build.
            timing_cache: What an earlier build on this GPU returned.
            gpu: The GPU to build on, which is the current one of this thread too; None for none.

        Returns:
            As :func:`mxtrt.engines.tensorrt.builder.build_plan`.

        Raises:
            RefusedNodesError: The parser refused nodes.
            EngineError: TensorRT did not build the engine, or its process ended over it.
        """
        with self._lock:
            self._end.cancel()
            try:
                child = self._started(gpu)
            except EngineError as error:
                _log.info("engines are built in this process: %s", error)
                return build_plan(self._api, blueprint, timing_cache)
            facts = dataclasses.asdict(blueprint)
            data = {"model": facts.pop("model"), "timings": timing_cache}
            try:
                arrays = {name: _array(given) for name, given in data.items()}
                told = child.ask(facts, arrays, _PATIENCE)[1]
            except RefusedNodesError:
                raise
            except BaseException:  # cuBLAS and cuDNN stay broken after an allocation failed
                self._stop()
                raise
            finally:
                self._end = threading.Timer(self._idle or _IDLE, self._stop_if_idle)
                self._end.daemon = True
                self._end.start()
            return told["plan"].tobytes(), told["timings"].tobytes()

    def stop(self) -> None:
        """End the process now; the next build starts another one."""
        with self._lock:
            self._end.cancel()
            self._stop()

    def _started(self, gpu: int | None) -> Child:
        hello = {"package": self._api.package, "gpu": gpu}
        if self._child is not None and self._child.is_ours:
            try:
                self._child.ask(hello, {}, _START)
                return self._child
            except EngineError as error:  # somebody killed it
                _log.debug("another process builds: %s", error)
        self._stop()
        child = Child(__name__, "the process in which TensorRT builds")
        child.ask(hello, {}, _START)
        self._child = child
        return child

    def _stop(self) -> None:
        if self._child is not None:
            self._child.close()
        self._child = None

    def _stop_if_idle(self) -> None:
        with self._lock:
            if self._end is threading.current_thread():  # no build came in between
                self._stop()


def _array(data: bytes) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    return np.frombuffer(data, np.uint8)


class _Builder:
    """The other side: is told which TensorRT and which GPU to use, and then what to build."""

    def __init__(self) -> None:
        self._api: Api | None = None

    def __call__(self, header: Header, arrays: Arrays) -> tuple[Header, Arrays]:
        if "package" in header:
            self._begin(header["package"], header["gpu"])
            return {}, {}
        assert self._api is not None
        data = {name: array.tobytes() for name, array in arrays.items()}
        blueprint = Blueprint(data["model"], **header)
        plan, learnt = build_plan(self._api, blueprint, data["timings"])
        return {}, {"plan": _array(plan), "timings": _array(learnt)}

    def _begin(self, package: str, gpu: int | None) -> None:
        if gpu is not None:
            node = ctypes.CDLL(os.fspath(PATH))  # its driver; it needs no MXNet for that
            node.mxtrt_take_error.restype = ctypes.c_char_p
            if not node.mxtrt_cuda_make_current(gpu):
                raise EngineError(node.mxtrt_take_error().decode(errors="replace"))
        self._api = load_api(package)


def main() -> None:
    """Serve builds."""
    serve(_Builder())
