"""ONNX Runtime on the CPU: the embedded engine, for every machine."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import onnx

from mxtrt.config import Options
from mxtrt.convert.onnx_builder import OPSET
from mxtrt.engines import cores
from mxtrt.engines.base import BuildRequest, Session
from mxtrt.engines.kinds import ONNXRUNTIME
from mxtrt.errors import EngineError, NodeError
from mxtrt.node import library
from mxtrt.system.background import at_low_priority
from mxtrt.system.threads import once

__all__ = ["OnnxRuntime", "session_config", "shared_library"]

# Initializers stay out of the arena, which is then scratch memory only and is shared by all
# sessions (onnxruntime_session_options_config_keys.h).
_CONFIG = (
    ("session.use_env_allocators", "1"),
    ("session.use_device_allocator_for_initializers", "1"),
)

# Without VNNI sums of two products of uint8 and int8 saturate at 16 bits, unless this asks for
# products of uint8, which are slower: with VNNI too.
_CONFIG_INT8 = ("session.x64quantprecision", "1")

_DISABLED = "optimization.disable_specified_optimizers"

# The fusion leaves out a cast before a layer normalisation and then refuses its own node, whose
# inputs are of two types.  Its name depends on the version.
_LAYER_NORMS = ("LayerNormFusion", "LayerNormFusionL1", "LayerNormFusionL2")

# This takes two splits of one tensor for the same, though their numbers of parts differ.
_COMMON = ("CommonSubexpressionElimination",)


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

    Args:
        threads: How many threads compute, the calling one among them; 0 for as many as suit.
        spin: Whether they spin before they sleep; None for what suits.

    Raises:
        EngineError: ONNX Runtime is missing, too old or does not load.
    """

    name = "onnxruntime"
    contexts = ("cpu",)
    dtypes = ONNXRUNTIME.dtypes
    on_cpu = ONNXRUNTIME.on_cpu
    computes_float16 = False
    static_shapes = False
    takes_ranges = False
    shares_sessions = True

    def __init__(self, threads: int, spin: bool | None) -> None:
        path = shared_library()
        threads = threads or cores.threads()
        spin = cores.spins() if spin is None else spin
        try:
            self.version = library().open_onnxruntime(path, threads, spin)
        except NodeError as error:
            raise EngineError(f"ONNX Runtime does not load: {error}") from error
        # Before 1.25 it had no kernel for DeformConv.
        old = tuple(map(int, self.version.split(".")[:2])) < (1, 25)
        self.opset = OPSET if old else ONNXRUNTIME.opset

    def build(self, request: BuildRequest) -> Session:
        """Build a session; see :class:`mxtrt.engines.base.Engine`."""
        segment = request.segment
        weights = [(w.type.name, w.address, w.type.shape, w.type.dtype) for w in request.weights]
        config = *_CONFIG, *session_config(onnx.load_model_from_string(segment.model))
        create = library().create_session
        try:
            handle = at_low_priority(
                lambda: create(segment.model, segment.inputs, segment.outputs, weights, config)
            )
        except NodeError as error:
            raise EngineError(str(error)) from error
        return Session(handle, weights=request.weights)


def session_config(model: onnx.ModelProto) -> Iterator[tuple[str, str]]:
    """Configuration entries of a session: what int8 needs, and without what breaks the model."""
    graph = model.graph
    if any(node.op_type == "QuantizeLinear" for node in graph.node) and not _has_vnni():
        yield _CONFIG_INT8
    kinds = {value.type.tensor_type.elem_type for value in graph.input}
    kinds.update(a.i for node in graph.node if node.op_type == "Cast" for a in node.attribute)
    cast = {name for node in graph.node if node.op_type == "Cast" for name in node.output}
    means = {node.input[0] for node in graph.node if node.op_type == "ReduceMean"}
    disabled: tuple[str, ...] = ()
    if onnx.TensorProto.FLOAT16 in kinds or not cast.isdisjoint(means):
        disabled += _LAYER_NORMS
    if len({len(node.output) for node in graph.node if node.op_type == "Split"}) > 1:
        disabled += _COMMON
    if disabled:
        yield _DISABLED, ";".join(disabled)


@functools.cache
def _has_vnni() -> bool:
    """Whether the CPU adds products of uint8 and int8 without saturation."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return not {"avx512_vnni", "avx_vnni"}.isdisjoint(text.split())


@once
def _engine(threads: int, spin: bool | None) -> OnnxRuntime:
    return OnnxRuntime(threads, spin)


def onnxruntime(options: Options) -> OnnxRuntime:
    """The engine, loaded at the first call (thread options count only then)."""
    return _engine(options.threads, options.spin)
