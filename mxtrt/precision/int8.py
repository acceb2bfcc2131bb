"""Layers in int8: ``QuantizeLinear`` and ``DequantizeLinear`` around what engines quantize.

ONNX Runtime's quantizer inserts them.  Weights are symmetric, by output channel.  Activations are
symmetric int8 for TensorRT, which takes no zero points and fuses a layer with what follows it, so
that only inputs of layers are quantized; they are uint8 with a zero point for ONNX Runtime, whose
kernels for that are the fast ones (VNNI multiplies uint8 by int8) and take ``Relu`` in.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
from onnx import NodeProto, helper

from mxtrt.errors import EngineError
from mxtrt.precision.quantizer import quantization, quiet
from mxtrt.precision.ranges import LAYERS, SegmentRanges, as_mapping, chosen, layers_of
from mxtrt.precision.working import Step, WorkingModel

__all__ = ["quantize", "replace_clips", "require_quantizer"]

# fmt: off
_CPU = [
    *LAYERS, "Add", "AveragePool", "Clip", "Concat", "Flatten", "GlobalAveragePool", "LeakyRelu",
    "MaxPool", "Mul", "Relu", "Reshape", "Sigmoid", "Squeeze", "Transpose", "Unsqueeze",
]
# What TensorRT runs in int8 or moves a quantization across, ``Add`` together with a layer.
_TENSORRT = {
    *LAYERS, "Add", "AveragePool", "Concat", "Flatten", "GlobalAveragePool", "MaxPool",
    "Relu", "Reshape", "Split", "Squeeze", "Transpose", "Unsqueeze",
}
# Across these a quantization moves.
_MOVED_ACROSS = _TENSORRT.difference(LAYERS, {"Add"}) | {"Gather", "Identity", "Slice"}
# fmt: on

# Smallest and largest value of a tensor.
_Range = tuple[np.float32, np.float32]

#: Largest number of int8; a little less, since a scale is rounded to float32.
_LARGEST = 127 * (1 - 1e-6)


def require_quantizer() -> None:
    """See that ONNX Runtime's quantizer is there.

    Raises:
        EngineError: It is not.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        raise EngineError(
            "precision=int8 needs ONNX Runtime's quantizer, whichever engine runs; install it "
            "with: pip install onnxruntime"
        )


def quantize(model: WorkingModel, segment: SegmentRanges, *, symmetric: bool) -> int:
    """Quantize a model in place.

    Args:
        model: The model in float32, normalisation folded.
        segment: Its ranges, and which layers may be int8.
        symmetric: Activations without a zero point, and weights that a builder quantizes
            itself: for TensorRT.

    Returns:
        How many layers are int8.
    """
    require_quantizer()
    _part_shared_weights(model)
    layers = [step.node.name for step in layers_of(model)]
    known = _finite_ranges(model, segment)
    kept = _kept_in_float32(model, segment, known)
    kept |= _behind_factors(model) if symmetric else _outside_layers(model, kept)
    _insert_quantization(model, known, kept, symmetric=symmetric)
    if symmetric:
        _for_tensorrt(model, kept)
    return sum(name not in kept for name in layers)


def _finite_ranges(model: WorkingModel, segment: SegmentRanges) -> dict[str, _Range]:
    """Smallest and largest value of every tensor for which calibration saw finite ones.

    Not of one that was always zero: the quantizer takes 1 for its scale, which is too coarse for
    the bias of a layer that reads it.
    """
    return {
        name: (np.float32(low), np.float32(high))
        for name, (low, high) in as_mapping(segment, model).items()
        if np.isfinite(low) and np.isfinite(high) and (low or high)
    }


def _kept_in_float32(
    model: WorkingModel, segment: SegmentRanges, known: Collection[str]
) -> set[str]:
    """Names of the nodes that the quantizer has to leave alone.

    Args:
        model: The model.
        segment: Its ranges, which say of layers whether they may be int8.
        known: Tensors with a range.
    """
    layers = chosen(segment, model)
    kept = {step.node.name for step, layer in layers if layer.precision != "int8"}
    kept |= {step.node.name for step, _ in layers if not _quantizable(model, step.node)}
    kept |= {step.node.name for step in model.steps if _has_no_right_range(model, step.node, known)}
    return kept


def _has_no_right_range(model: WorkingModel, node: NodeProto, known: Collection[str]) -> bool:
    """Whether a tensor of a node has no range, or the quantizer would use a wrong one for it."""
    tensors = [name for name in (*node.input, *node.output) if name]
    if not all(name in known or model.is_initializer(name) for name in tensors):
        return True
    # The quantizer gives the input of a Clip or Relu the range of the output, which is too narrow
    # where the input is an output of the model as well.
    if node.op_type in ("Clip", "Relu") and node.input[0] in model.outputs:
        return True
    # It drops a Clip in front of QuantizeLinear, whose range clips as well.  But that range always
    # includes zero, which these bounds do not.
    return _excludes_zero(model, node)


def _insert_quantization(
    model: WorkingModel, known: Mapping[str, _Range], kept: Collection[str], *, symmetric: bool
) -> None:
    """Have ONNX Runtime's quantizer put ``QuantizeLinear`` and ``DequantizeLinear`` in a model."""
    quantization()
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    sources = {step.node.name: step.source for step in model.steps}
    present = {step.node.op_type for step in model.steps}
    types = LAYERS if symmetric else _CPU
    with quiet():
        quantizer = QDQQuantizer(
            model.to_proto(whole=True),
            per_channel=True,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QInt8 if symmetric else QuantType.QUInt8,
            tensors_range=TensorsData(CalibrationMethod.MinMax, dict(known)),
            nodes_to_quantize=[],
            nodes_to_exclude=list(kept),
            op_types_to_quantize=[kind for kind in types if kind in present],
            extra_options=_quantizer_options(symmetric),
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
    proto = quantizer.model.model
    names, last = [], ""
    for node in reversed(proto.graph.node):  # what is inserted belongs to what reads it
        last = sources.get(node.name, last)
        names.append(last)
    model.replace_with(proto, reversed(names))


def _quantizer_options(symmetric: bool) -> dict[str, Any]:
    """What ONNX Runtime's quantizer calls extra options."""
    options: dict[str, Any] = {"WeightSymmetric": True, "ActivationSymmetric": symmetric}
    if symmetric:
        return options | {
            "AddQDQPairToWeight": True,
            "QuantizeBias": False,
            "OpTypesToExcludeOutputQuantization": list(LAYERS),
        }
    # ONNX Runtime's int8 kernels of these two can write float32, so that what is read from outside
    # loses nothing to a second rounding.
    return options | {"OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"]}


def _part_shared_weights(model: WorkingModel) -> None:
    """Give every ``Gemm`` a weight of its own.

    On a CPU without VNNI, ONNX Runtime turns a weight into uint8 for each of them, twice under the
    same name.
    """
    seen: set[str] = set()
    for step in model.steps:
        node = step.node
        value = model.value(node.input[1]) if node.op_type == "Gemm" else None
        if value is None:
            continue
        if node.input[1] in seen:
            node.input[1] = model.add(node.input[1], value)
        seen.add(node.input[1])


def _for_tensorrt(model: WorkingModel, left: set[str]) -> None:
    """Work around what TensorRT 8.5 gets wrong next to quantized tensors.

    Only layers in int8, and what runs in int8 with them, read such a tensor; the rest reads it as
    it was.  TensorRT would take some of that into int8 too, where ``Abs`` of -128 is -128, or read
    it with a wrong scale.  A ``Clip`` in front, or with operators that are no layers in between,
    becomes other operators: TensorRT moves it behind ``QuantizeLinear`` and keeps its bounds.
    """
    # By name of a quantized or dequantized tensor, the float32 tensor that it was made from.
    before: dict[str, str] = {}
    by_layers = {name for s in model.steps if s.node.op_type in LAYERS for name in s.node.output}
    for step in model.steps:
        node = step.node
        if node.op_type == "QuantizeLinear" and model.value(node.input[0]) is None:
            before[node.output[0]] = node.input[0]
        elif node.op_type == "DequantizeLinear" and node.input[0] in before:
            before[node.output[0]] = before[node.input[0]]
        elif (
            node.op_type not in _TENSORRT
            or node.name in left
            or (node.op_type == "Add" and not by_layers.intersection(node.input))
        ):
            node.input[:] = [before.get(name, name) for name in node.input]
    replace_clips(model)


def replace_clips(model: WorkingModel) -> None:
    """Replace every ``Clip`` whose values are quantized; see :func:`_for_tensorrt`."""
    readers = model.readers()
    ahead = _ahead_of_quantization(model)
    model.steps = [
        Step(node, step.source)
        for step in model.steps
        for node in (
            _without_clip(model, step.node, readers.get(step.node.output[0], []))
            if step.node.op_type == "Clip" and step.node.output[0] in ahead
            else (step.node,)
        )
    ]


def _ahead_of_quantization(model: WorkingModel) -> set[str]:
    """Tensors from which a way leads to ``QuantizeLinear`` that meets no layer."""
    ahead: set[str] = set()
    for step in reversed(model.steps):
        node = step.node
        if node.op_type == "QuantizeLinear":
            ahead.add(node.input[0])
        elif node.op_type not in LAYERS and ahead.intersection(node.output):
            ahead.update(node.input)
    return ahead


def _without_clip(model: WorkingModel, node: NodeProto, readers: list[Step]) -> Iterator[NodeProto]:
    """What stands for a ``Clip`` whose values are quantized, in a few nodes.

    Where the quantized range ends before the upper bound, the range does what the bound does:
    ReLU6 is a ``Relu``, which TensorRT runs with the layer before it.
    """
    quantizing = [step.node for step in readers if step.node.op_type == "QuantizeLinear"]
    value, low, high = node.input
    lowest, largest = model.value(low), model.value(high)
    scales = [model.value(reader.input[1]) for reader in quantizing]
    ends = [_LARGEST * scale for scale in scales if scale is not None]
    alone = 0 < len(ends) == len(readers) and node.output[0] not in model.outputs
    if alone and largest is not None and lowest == 0 and all(end <= largest for end in ends):
        yield helper.make_node("Relu", [value], node.output, node.name)
        return
    between = model.fresh(node.output[0])
    yield helper.make_node("Max", [value, low], [between], between)
    yield helper.make_node("Min", [between, high], node.output, node.name)


def _excludes_zero(model: WorkingModel, node: NodeProto) -> bool:
    """Whether a node is a ``Clip`` whose bounds are both positive or both negative."""
    if node.op_type != "Clip":
        return False
    bounds = [model.value(name) for name in node.input[1:]]
    signs = [np.sign(float(bound)) for bound in bounds if bound is not None]
    return len(signs) == 2 and signs[0] == signs[1] != 0


def _quantizable(model: WorkingModel, node: NodeProto) -> bool:
    """Whether the quantizer gets a layer right, whose weights it quantizes by output channel.

    It takes axis 1 of a transposed convolution's weight for all its channels, which are those of
    one group, axis 1 of every constant of a ``MatMul`` for the columns of the second operand, and a
    bias for a number a channel, where that of a ``Gemm`` may be a matrix.
    """
    values = [model.value(name) for name in node.input[:2]]
    bias = model.value(node.input[2]) if len(node.input) > 2 else None
    if bias is not None and bias.ndim != 1:
        return False
    if node.op_type == "MatMul":
        return values[0] is None and (values[1] is None or values[1].ndim == 2)
    if node.op_type == "ConvTranspose" and any(
        a.name == "group" and a.i > 1 for a in node.attribute
    ):
        return False
    return values[0] is None and values[1] is not None


def _behind_factors(model: WorkingModel) -> set[str]:
    """Names of the layers that read what a constant multiplied or divided.

    TensorRT 8.5 makes the factor part of the quantization in front of the layer, the wrong way
    round: it was seen to round x / (2 * scale) where 2 * x / scale was asked for.
    """
    scaled: set[str] = set()
    for step in model.steps:
        node = step.node
        values = [model.value(name) for name in node.input]
        factors = [value for value in values if value is not None and (value != 1).any()]
        if (node.op_type in ("Mul", "Div") and factors) or (
            node.op_type in _MOVED_ACROSS and scaled.intersection(node.input)
        ):
            scaled.update(node.output)
    return {
        step.node.name
        for step in model.steps
        if step.node.op_type in LAYERS and scaled.intersection(step.node.input)
    }


def _outside_layers(model: WorkingModel, kept: Collection[str]) -> set[str]:
    """Names of the nodes that do not lie between layers in int8, and stay float32.

    A node lies between them if it can be int8, all its readers are int8, and so is at least one of
    the nodes that it reads.

    Args:
        model: The model.
        kept: Names of the nodes that stay float32 for other reasons, layers among them.
    """
    layers = {
        step.node.name
        for step in model.steps
        if step.node.op_type in LAYERS and step.node.name not in kept
    }
    makers = {name: step.node.name for step in model.steps for name in step.node.output}
    readers = model.readers()
    inside = set(layers)
    for step in reversed(model.steps):
        after = {r.node.name for name in step.node.output for r in readers.get(name, ())}
        heads = any(name in model.outputs for name in step.node.output)
        fits = step.node.op_type in _CPU and step.node.name not in kept
        if fits and after and after <= inside and not heads:
            inside.add(step.node.name)
    for step in model.steps:
        before = {makers[name] for name in step.node.input if name in makers}
        if step.node.name not in layers and not before & inside:
            inside.discard(step.node.name)
    return {step.node.name for step in model.steps} - inside
