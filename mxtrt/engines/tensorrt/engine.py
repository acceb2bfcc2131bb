"""The engine: cache, builder process and runtime together."""

from __future__ import annotations

import functools
import hashlib
import logging
import weakref

from mxtrt.engines.base import BuildRequest, Session
from mxtrt.engines.cache import EngineCache
from mxtrt.engines.kinds import TENSORRT
from mxtrt.engines.tensorrt.api import PACKAGES, Api, installed, load_api
from mxtrt.engines.tensorrt.builder import blueprint, canonical, content_hash
from mxtrt.engines.tensorrt.lanes import Lanes
from mxtrt.engines.tensorrt.process import BuilderProcess
from mxtrt.engines.tensorrt.runtime import LoadedEngine, Runtime
from mxtrt.errors import EngineError, NodeError
from mxtrt.node import library
from mxtrt.system.threads import lock, once

__all__ = ["TensorRT", "tensorrt"]

_log = logging.getLogger("mxtrt")

# Bytes of free GPU memory without which TensorRT before 10 is not started: cuBLAS and cuDNN, which
# it uses, take 514 MiB of an H100, and where they found too little at first they never start.
_ROOM = 1 << 30


class TensorRT:
    """TensorRT through its Python package.

    Args:
        api: TensorRT.

    Attributes:
        builder: What builds engines.

    Raises:
        EngineError: No GPU answers.
    """

    name = "tensorrt"
    contexts = ("cpu", "gpu")
    on_cpu = TENSORRT.on_cpu
    opset = TENSORRT.opset
    computes_float16 = True
    static_shapes = True
    takes_ranges = True
    shares_sessions = False  # a context belongs to what was recorded with it

    def __init__(self, api: Api) -> None:
        self._api = api
        try:
            library().cuda.device()
        except NodeError as error:
            raise EngineError(f"TensorRT has no GPU: {error}") from error
        self.version = api.version
        self.dtypes = api.dtypes
        self._runtimes: dict[int, Runtime] = {}
        self._loaded: weakref.WeakValueDictionary[tuple[int, str], LoadedEngine]
        self._loaded = weakref.WeakValueDictionary()
        self._lock = lock()
        self.builder = BuilderProcess(api)

    def build(self, request: BuildRequest) -> Session:
        """Build a session; see :class:`mxtrt.engines.base.Engine`."""
        request = canonical(request)
        cuda = library().cuda
        try:
            with cuda.current(request.options.gpu_for(request.gpu)):
                loaded = self._load(request)
                outputs = [tensor.nbytes for tensor in request.outputs]
                on_device = request.gpu is not None
                if request.ranges is None:
                    context = loaded.context(request)
                    runtime = functools.partial(self._runtime, like=loaded.runtime.ordinal)
                    lanes = Lanes(context, _gpus(request), request.options.lanes, runtime)
                    handle = cuda.create_session(
                        context,
                        [tensor.nbytes for tensor in request.inputs],
                        outputs,
                        loaded.scratch,
                        loaded.runtime.ordinal,
                        on_device=on_device,
                        lanes=lanes.most,
                        more=lanes.want,
                    )
                else:
                    handle = cuda.create_range_session(
                        loaded.contexts(request),
                        [(tensor.shape or (), tensor.nbytes) for tensor in request.inputs],
                        outputs,
                        loaded.scratch,
                        loaded.runtime.ordinal,
                        on_device=on_device,
                    )
        except NodeError as error:
            raise EngineError(str(error)) from error
        reason = cuda.unrecordable(handle)
        notes = (f"every forward goes through Python: {reason}",) if reason else ()
        content = loaded.content if request.ranges else ""
        return Session(handle, loaded.tally, loaded.runtime.ordinal, notes, content=content)

    def _runtime(self, ordinal: int, like: int) -> Runtime:
        """The runtime of a GPU for engines that were built on another one.

        Raises:
            EngineError: They are not of one kind, or TensorRT does not start there.
            NodeError: There is no such GPU.
        """
        if self._facts(ordinal) != self._facts(like):
            raise EngineError(f"GPU {ordinal} is of another kind than GPU {like}")
        with self._lock:
            return self._started(ordinal)

    def _load(self, request: BuildRequest) -> LoadedEngine:
        ordinal = request.options.gpu_for(request.gpu)
        facts = self._facts(ordinal)
        served = (self._api.profile_copies, *self._api.range_features) if request.ranges else ()
        key = content_hash(request, (*facts, *served))
        with self._lock:
            loaded = self._loaded.get((ordinal, key))
            if loaded is None:
                loaded = self._load_or_build(key, request, facts, self._started(ordinal))
                self._loaded[ordinal, key] = loaded
        return loaded

    def _started(self, ordinal: int) -> Runtime:
        """The runtime of a GPU; the lock is held."""
        if ordinal not in self._runtimes:
            self._runtimes[ordinal] = self._start(ordinal)
        return self._runtimes[ordinal]

    def _start(self, ordinal: int) -> Runtime:
        free = library().cuda.memory(ordinal).free
        if self._api.needs_libraries and free < _ROOM:
            raise EngineError(
                f"GPU {ordinal} has {free >> 20} MiB of memory free and TensorRT {self.version} "
                f"needs {_ROOM >> 20} MiB to start; free some, or give back MXNet's pool with "
                f"mx.gpu({ordinal}).empty_cache()"
            )
        return Runtime(self._api, ordinal)

    def _load_or_build(
        self, key: str, request: BuildRequest, facts: tuple[object, ...], runtime: Runtime
    ) -> LoadedEngine:
        cache = EngineCache(request.options.cache_dir, request.options.cache_size)
        built: list[bytes] = []

        def build() -> bytes:
            built.append(self._build_plan(request, facts, cache))
            return built[0]

        plan = cache.get_or_build(key, build)

        def load(plan: bytes | memoryview) -> LoadedEngine:
            loaded = runtime.load(plan)
            if request.ranges is not None:
                loaded.content = hashlib.sha256(plan).hexdigest()
            return loaded

        try:
            return load(plan)
        except EngineError as error:
            if built or "memory" in str(error).lower():  # of the GPU: no fault of the engine
                raise
            _log.warning("a cached engine does not load and is built again: %s", error)
            cache.store(key, build())
            return load(built[0])

    def _facts(self, ordinal: int) -> tuple[object, ...]:
        device = library().cuda.device(ordinal)
        return self._api.package, self.version, device.name, device.capability

    def _build_plan(
        self, request: BuildRequest, facts: tuple[object, ...], cache: EngineCache
    ) -> bytes:
        ordinal = request.options.gpu_for(request.gpu)
        library().cuda.make_current(ordinal)
        timings = "timing-" + hashlib.sha256(repr(facts).encode()).hexdigest()
        known = bytes(cache.load(timings) or b"")
        wanted = blueprint(request, copies=self._api.profile_copies)
        plan, learnt = self.builder.build(wanted, known, ordinal)
        if learnt and learnt != known:
            cache.store(timings, learnt)
        return plan


def _gpus(request: BuildRequest) -> tuple[int, ...]:
    """The GPUs that a session may run on, the one first that its engine is built on.

    Raises:
        NodeError: There is no driver.
    """
    if request.gpu is not None:
        return (request.gpu,)
    return request.options.gpus or tuple(range(library().cuda.count()))


@once
def tensorrt() -> TensorRT:
    """The engine, loaded at the first call: TensorRT, or else TensorRT for RTX.

    Raises:
        EngineError: Neither is installed, it is too old, or no GPU answers.
    """
    return TensorRT(load_api(installed() or PACKAGES[0]))
