"""From a segment to a serialized engine ("plan" in TensorRT's terms)."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import re
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx

from mxtrt.engines.base import BuildRequest
from mxtrt.engines.ranges import Profile
from mxtrt.engines.tensorrt.api import Api
from mxtrt.errors import EngineError, RefusedNodesError

__all__ = ["Blueprint", "blueprint", "build_plan", "canonical", "content_hash", "is_typed"]

_log = logging.getLogger("mxtrt")

# Operators whose layers have types by what they are.
_TYPED = ("Cast", "QuantizeLinear", "DequantizeLinear")

# Tactic sources of the libraries that TensorRT before 10 takes kernels from, by their names in its
# errors.  One that found no memory at its first start never starts in that process.
_LIBRARIES = {"cublas": ("CUBLAS", "CUBLAS_LT"), "cudnn": ("CUDNN",)}

# Layers that no kernel fits, in TensorRT's errors; fused ones have " + " between their names.
_NO_KERNEL = re.compile(r"(?:implementation for node|No supported formats for) (.+?)\.?\)")

# Seconds between two lines of progress.
_PROGRESS_EVERY = 5.0


@dataclass(frozen=True, slots=True)
class Blueprint:
    """What TensorRT's builder is given.

    Attributes:
        model: The ONNX model with its weights inside; its outputs have no shapes.
        sources: The MXNet node of every ONNX node.
        precision: The option.
        workspace: The option, in bytes.
        profiles: For every optimization profile the smallest, usual and largest shape of every
            input by name; none for an engine that serves the shapes of the model only.
        capability: Compute capability of a GPU that is not this machine's, which TensorRT for RTX
            can build for.
    """

    model: bytes
    sources: Sequence[str]
    precision: str
    workspace: int
    profiles: Sequence[Mapping[str, Sequence[Sequence[int]]]] = ()
    capability: tuple[int, int] | None = None


def blueprint(
    request: BuildRequest, capability: tuple[int, int] | None = None, copies: int = 1
) -> Blueprint:
    """What the builder is given to build a request, names replaced.

    Args:
        request: What to build.
        capability: See :class:`Blueprint`.
        copies: How often each optimization profile is to be there.
    """
    profiles = [
        dict(zip(request.segment.inputs, _bounds(profile), strict=True))
        for profile in (request.ranges.profiles if request.ranges else ())
    ]
    options = request.options
    return Blueprint(
        _whole_model(request),
        request.segment.sources,
        options.precision,
        options.workspace,
        profiles * copies,
        capability,
    )


def canonical(request: BuildRequest) -> BuildRequest:
    """The same request with every name in the model replaced by a number.

    Gluon numbers its blocks in the order of their creation; the second instance of a network is
    the same engine.
    """
    segment = request.segment
    model = onnx.load_model_from_string(segment.model)
    graph = model.graph
    names: dict[str, str] = {"": ""}  # an input that is left out

    def number(name: str) -> str:
        return names.setdefault(name, f"v{len(names)}")

    for value in graph.input:
        value.name = number(value.name)
        value.type.tensor_type.ClearField("shape")
    for weight in segment.weights:
        number(weight.name)
    for node in graph.node:
        node.input[:] = [number(name) for name in node.input]
        node.output[:] = [number(name) for name in node.output]
        node.name = node.output[0]
    for tensor in graph.initializer:
        tensor.name = number(tensor.name)
    for value in graph.output:
        value.name = number(value.name)
        value.type.tensor_type.ClearField("shape")
    renamed = [dataclasses.replace(w, name=number(w.name)) for w in segment.weights]
    return dataclasses.replace(
        request,
        segment=dataclasses.replace(
            segment,
            model=model.SerializeToString(deterministic=True),
            inputs=tuple(number(name) for name in segment.inputs),
            outputs=tuple(number(name) for name in segment.outputs),
            weights=tuple(renamed),
        ),
        weights=[
            dataclasses.replace(weight, type=kind)
            for weight, kind in zip(request.weights, renamed, strict=True)
        ],
    )


def content_hash(request: BuildRequest, facts: tuple[object, ...]) -> str:
    """Hash of everything that an engine depends on, the bytes of its weights included.

    Args:
        request: What to build, names replaced; its shapes count as far as the engine is built
            for them.
        facts: What else it depends on: versions, the GPU, how it serves ranges.
    """
    options = request.options
    shapes: object = request.ranges or [tensor.shape for tensor in request.inputs]
    text = repr((facts, options.precision, options.workspace, shapes))
    digest = hashlib.sha256(text.encode())
    digest.update(request.segment.model)
    for weight in request.weights:
        digest.update(repr((weight.type.name, weight.type.shape, str(weight.type.dtype))).encode())
        digest.update(weight.data)
    return digest.hexdigest()


def _whole_model(request: BuildRequest) -> bytes:
    """The model with its weights inside, as the parser takes it; outputs have no shapes.

    Dimensions are fixed, but for the axes that vary: those of one size have one name.
    """
    model = onnx.load_model_from_string(request.segment.model)
    values = {weight.type.name: weight for weight in request.weights}
    for tensor in model.graph.initializer:
        if tensor.name in values:
            tensor.ClearField("external_data")
            tensor.data_location = onnx.TensorProto.DEFAULT
            tensor.raw_data = bytes(values[tensor.name].data)
    varies = {
        place: f"size{number}"
        for number, symbol in enumerate(request.ranges.symbols if request.ranges else ())
        for place in symbol
    }
    for index, (value, tensor) in enumerate(zip(model.graph.input, request.inputs, strict=True)):
        value.type.tensor_type.ClearField("shape")
        shape = value.type.tensor_type.shape
        assert tensor.shape is not None
        for axis, size in enumerate(tensor.shape):
            if (index, axis) in varies:
                shape.dim.add(dim_param=varies[index, axis])
            else:
                shape.dim.add(dim_value=size)
        value.type.tensor_type.shape.SetInParent()
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def build_plan(api: Api, blueprint: Blueprint, timing_cache: bytes = b"") -> tuple[bytes, bytes]:
    """Build an engine on the GPU that is current.

    Args:
        api: TensorRT.
        blueprint: What to build.
        timing_cache: What an earlier build on this GPU returned.

    Returns:
        The serialized engine, and the timing cache for later builds (empty if there is none).

    Raises:
        RefusedNodesError: The parser refused nodes.
        EngineError: TensorRT did not build the engine; the message is its own.
    """
    with warnings.catch_warnings():
        # Some of what older versions need, newer ones deprecate.
        warnings.simplefilter("ignore", DeprecationWarning)
        missing: frozenset[str] = frozenset()
        while True:
            try:
                return _build_plan(api, blueprint, timing_cache, missing)
            except EngineError as error:
                named = {name for name in _LIBRARIES if f"initialize {name}" in str(error)}
                if named <= missing:
                    raise
                _log.info("building without %s: %s", " and ".join(named), error)
                missing |= named


def _build_plan(
    api: Api, blueprint: Blueprint, timing_cache: bytes, missing: frozenset[str]
) -> tuple[bytes, bytes]:
    trt = api.trt
    api.forget_errors()
    begin = time.perf_counter()
    builder = trt.Builder(api.logger)
    explicit = getattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH", None)
    flags = 0 if explicit is None else 1 << int(explicit)
    typed = is_typed(blueprint.model)
    strongly = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    if typed and strongly is not None:
        flags |= 1 << int(strongly)
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, api.logger)
    if not parser.parse(blueprint.model):
        raise _refusal(api, parser, blueprint.sources)
    config = builder.create_builder_config()
    if typed and strongly is None:
        _pin_types(trt, network, config, blueprint.model)
    if blueprint.capability is not None:
        config.num_compute_capabilities = 1
        name = "SM{}{}".format(*blueprint.capability)
        config.set_compute_capability(getattr(trt.ComputeCapability, name), 0)
    for source in (source for name in missing for source in _LIBRARIES[name]):
        kept = config.get_tactic_sources() & ~(1 << int(getattr(trt.TacticSource, source)))
        config.set_tactic_sources(kept)
    if blueprint.workspace:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, blueprint.workspace)
    if blueprint.precision == "tf32":
        config.set_flag(trt.BuilderFlag.TF32)
    else:
        config.clear_flag(trt.BuilderFlag.TF32)
    for shapes_of in blueprint.profiles:
        profile = builder.create_optimization_profile()
        for name, shapes in shapes_of.items():
            profile.set_shape(name, *map(tuple, shapes))
        if config.add_optimization_profile(profile) < 0:
            raise EngineError(f"TensorRT does not take the profile {shapes_of}: {api.errors()}")
    for feature in api.range_features.values() if blueprint.profiles else ():
        config.set_preview_feature(feature, True)
    timings = config.create_timing_cache(timing_cache) or config.create_timing_cache(b"")
    if timings is not None:
        config.set_timing_cache(timings, False)
    if hasattr(trt, "IProgressMonitor"):
        config.progress_monitor = _progress_monitor(trt)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise _failure(api.errors(), blueprint)
    _log.info("TensorRT built an engine in %.1f s", time.perf_counter() - begin)
    learnt = config.get_timing_cache() if timings is not None else None
    return bytes(plan), b"" if learnt is None else bytes(learnt.serialize())


def is_typed(model: bytes) -> bool:
    """Whether a model says itself where it computes in float16 or int8.

    One with a float16 input or output does: TensorRT 8.5 computes some float32 layers of such a
    network in float16, as if it had been asked to.
    """
    kinds = (onnx.TensorProto.FLOAT16, onnx.TensorProto.INT8)
    graph = onnx.load_model_from_string(model).graph
    edges = (value.type.tensor_type.elem_type for value in (*graph.input, *graph.output))
    return (
        any(tensor.data_type in kinds for tensor in graph.initializer)
        or onnx.TensorProto.FLOAT16 in edges
        or any(
            node.op_type == "QuantizeLinear"
            or (
                node.op_type == "Cast"
                and any(a.name == "to" and a.i == onnx.TensorProto.FLOAT16 for a in node.attribute)
            )
            for node in graph.node
        )
    )


def _pin_types(trt: Any, network: Any, config: Any, model: bytes) -> None:
    """Hold TensorRT before 9 to the types of the model: its networks are weakly typed.

    The parser names one layer of a node after it, and a node's last tensor after its output; what
    it adds between two of these belongs to the latter.  A layer that reads ``DequantizeLinear`` is
    left alone, because a precision of its own would keep it from int8.
    """
    graph = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(model)).graph
    if any(node.op_type == "QuantizeLinear" for node in graph.node):
        config.set_flag(trt.BuilderFlag.INT8)
    values = (*graph.input, *graph.value_info, *graph.output)
    kinds = {value.name: value.type.tensor_type.elem_type for value in values}
    if onnx.TensorProto.FLOAT16 not in kinds.values():
        return  # other layers may compute in float32 only
    config.set_flag(trt.BuilderFlag.FP16)
    config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
    types = {onnx.TensorProto.FLOAT: trt.float32, onnx.TensorProto.FLOAT16: trt.float16}
    pinned: dict[str, Any] = {}
    quantized: set[str] = set()
    for node in graph.node:
        kind = types.get(kinds.get(node.output[0], 0))
        if node.op_type == "DequantizeLinear":
            quantized.update(node.output)
        if node.op_type in _TYPED or quantized.intersection(node.input):
            kind = None
        pinned.update(dict.fromkeys((node.name, *node.output), kind))
    current = None
    for index in reversed(range(network.num_layers)):
        layer = network.get_layer(index)
        outputs = [layer.get_output(place) for place in range(layer.num_outputs)]
        names = (layer.name, *(tensor.name for tensor in outputs))
        known = [name for name in names if name in pinned]
        current = pinned[known[0]] if known else current
        floats = [p for p, tensor in enumerate(outputs) if tensor.dtype in types.values()]
        if current is None or not floats or layer.type == trt.LayerType.CONSTANT:
            continue
        layer.precision = current
        for place in floats:
            layer.set_output_type(place, current)


def _bounds(profile: Profile) -> Iterator[tuple[tuple[int, ...], ...]]:
    """For every input its smallest, usual and largest shape."""
    return zip(profile.smallest, profile.usual, profile.largest, strict=True)


def _refusal(api: Api, parser: Any, sources: Sequence[str]) -> EngineError:
    """What the parser says, by MXNet node where it names one."""
    errors = [parser.get_error(place) for place in range(parser.num_errors)]
    reasons = {
        sources[error.node()]: f"TensorRT's parser: {error.desc()}"
        for error in errors
        if 0 <= error.node() < len(sources)
    }
    if reasons:
        return RefusedNodesError(reasons)
    said = "; ".join(error.desc() for error in errors) or api.errors()
    return EngineError(f"TensorRT's parser: {said}")


def _failure(said: str, blueprint: Blueprint) -> EngineError:
    """What the builder says, by MXNet node where it has no kernel for a layer.

    Without memory no kernel fits any layer.  Of what TensorRT's compiler takes as a whole (a
    ``ForeignNode``) the error names the ends only.
    """
    reason = f"TensorRT did not build the engine: {said}"
    if "ForeignNode" in said or "memory" in said.lower():
        return EngineError(reason)
    nodes = onnx.load_model_from_string(blueprint.model).graph.node
    named = {name for layer in _NO_KERNEL.findall(said) for name in re.findall(r"[\w/.-]+", layer)}
    refused = [s for n, s in zip(nodes, blueprint.sources, strict=False) if s and n.name in named]
    return RefusedNodesError(dict.fromkeys(refused, reason)) if refused else EngineError(reason)


def _progress_monitor(trt: Any) -> Any:
    class Progress(trt.IProgressMonitor):  # type: ignore[misc]
        """Logs how far a build is, every few seconds."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}
            self._next = time.monotonic() + _PROGRESS_EVERY

        def phase_start(self, phase_name: str, parent_phase: str, num_steps: int) -> None:
            self._steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            if time.monotonic() >= self._next:
                self._next = time.monotonic() + _PROGRESS_EVERY
                _log.info("%s: %d of %d", phase_name, step + 1, self._steps.get(phase_name, 0))
            return True

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

    return Progress()
