"""ONNX Runtime on the CPU: the embedded engine, for every machine."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

from mxtrt.config import Options
from mxtrt.engines.base import BuildRequest, Session
from mxtrt.errors import EngineError, NodeError
from mxtrt.node import library
from mxtrt.ops import EDGES

__all__ = ["OnnxRuntime", "shared_library"]

# Initializers stay out of the arena, which is then scratch memory only and is shared by all
# sessions (onnxruntime_session_options_config_keys.h).
_CONFIG = (
    ("session.use_env_allocators", "1"),
    ("session.use_device_allocator_for_initializers", "1"),
)


def shared_library() -> Path:
    """Path of the shared library in the installed ``onnxruntime`` wheel.

    The package itself is not imported: only its library is used, through its C API.

    Raises:
        EngineError: ONNX Runtime is not installed, or is too old to ship the library.
    """
    spec = importlib.util.find_spec("onnxruntime")
    if spec is None or not spec.submodule_search_locations:
        raise EngineError(
            "ONNX Runtime is not installed; install it with: pip install 'mxtrt[cpu]'"
        )
    folder = Path(spec.submodule_search_locations[0]) / "capi"
    found = sorted(folder.glob("libonnxruntime.so*"))
    if not found:
        raise EngineError(
            f"the installed ONNX Runtime has no libonnxruntime.so in {folder}; "
            "install a newer one with: pip install --upgrade 'mxtrt[cpu]'"
        )
    return found[0]


class OnnxRuntime:
    """ONNX Runtime through the C API of its shared library.

    Raises:
        EngineError: ONNX Runtime is missing, too old or does not load.
    """

    name = "onnxruntime"
    contexts = ("cpu",)
    dtypes = EDGES
    computes_float16 = False
    static_shapes = False

    def __init__(self, threads: int, spin: bool) -> None:
        path = shared_library()
        try:
            self.version = library().open_onnxruntime(path, threads, spin)
        except NodeError as error:
            raise EngineError(f"ONNX Runtime does not load: {error}") from error

    def build(self, request: BuildRequest) -> Session:
        """Build a session; see :class:`mxtrt.engines.base.Engine`."""
        segment = request.segment
        try:
            handle = library().create_session(
                segment.model,
                segment.inputs,
                segment.outputs,
                [(w.type.name, w.address, w.type.shape, w.type.dtype) for w in request.weights],
                _CONFIG,
            )
        except NodeError as error:
            raise EngineError(str(error)) from error
        return Session(handle)


@functools.lru_cache(maxsize=1)
def _engine(threads: int, spin: bool) -> OnnxRuntime:
    return OnnxRuntime(threads, spin)


def onnxruntime(options: Options) -> OnnxRuntime:
    """The engine, loaded at the first call (thread options count only then)."""
    return _engine(options.threads, options.spin)
