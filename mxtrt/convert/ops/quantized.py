"""Converters of models that MXNet quantized for oneDNN.

A tensor of int8 or uint8 goes with two more of one number each, the ends of its range.  MXNet takes
``q * step`` for its value, where the larger end is 127.5 or 255.5 steps from zero
(``quantization/quantization_utils.h``).  In ONNX such a tensor is made by ``QuantizeLinear``, and
who reads it begins with ``DequantizeLinear``: engines fuse the two with the layer between them.
The range is a tensor there too, of which the step is computed: it follows from constants, which
engines fold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mxtrt.convert.onnx_builder import tensor_type
from mxtrt.convert.ops.registry import Call, converter
from mxtrt.errors import Unsupported

_INT8, _UINT8, _SINGLE = (np.dtype(kind) for kind in (np.int8, np.uint8, np.float32))

#: How many steps the larger end of a range is from zero.
_STEPS = {_INT8: 127.5, _UINT8: 255.5}

# Steps of a unit where a range is nothing but zeros.
_MOST = 2.0**31
_SMALLEST = 1 / _MOST

# A bias has at most so many steps, that of the product with the data.
_MOST_OF_BIAS = 2.0**30

#: Operators of one input that are fused with a layer.
_FUSED = frozenset({"Activation", "LeakyReLU", "abs", "clip", "exp", "sqrt", "square"})

_AT_RUN_TIME = "its range is computed at run time"


@converter("_contrib_quantize_v2", outputs=3, quantized=True)
def quantize(call: Call) -> None:
    """``QuantizeLinear`` with the range that was calibrated (``quantize_v2-inl.h``)."""
    call.require_dtype(call.inputs[0], {_SINGLE})
    low, high = _calibrated(call)
    dtype = _out_dtype(call)
    _quantize(call, call.input(), call.constant(_step(low, high, dtype)), dtype, call.output())
    if dtype == _INT8:
        high = max(abs(low), abs(high))
        low = -high
    _give_range(call, call.constant([low]), call.constant([high]))


@converter("_contrib_dequantize", outputs=1, quantized=True)
def dequantize(call: Call) -> None:
    """``DequantizeLinear`` (``dequantize-inl.h``)."""
    _dequantized(call, 0, 1, call.output())


@converter("_contrib_quantized_pooling", outputs=3, quantized=True)
def quantized_pooling(call: Call) -> None:
    """The ONNX nodes of Pooling between ``DequantizeLinear`` and ``QuantizeLinear``."""
    _between(call, "Pooling")


@converter("_contrib_quantized_flatten", outputs=3, quantized=True)
def quantized_flatten(call: Call) -> None:
    """``Flatten`` between ``DequantizeLinear`` and ``QuantizeLinear``."""
    _between(call, "Flatten")


@converter("_contrib_quantized_act", outputs=3, quantized=True)
def quantized_activation(call: Call) -> None:
    """``Relu`` between ``DequantizeLinear`` and ``QuantizeLinear``."""
    _between(call, "Activation")


@converter("_contrib_quantized_concat", outputs=3, quantized=True)
def quantized_concat(call: Call) -> None:
    """``Concat`` between ``DequantizeLinear`` and ``QuantizeLinear``.

    The range of the output is the union of those of the inputs, with zero
    (``mkldnn/mkldnn_quantized_concat.cc``).
    """
    count, dtype = call.integer("num_args"), _out_dtype(call)
    parts = [_dequantized(call, i, count + 2 * i)[0] for i in range(count)]
    axis = call.axis("dim", 1)
    joined = call.emit("Concat", parts, axis=axis)
    zero = call.constant([0])
    low = call.emit("Min", [*(call.input(count + 2 * i) for i in range(count)), zero])
    high = call.emit("Max", [*(call.input(count + 2 * i + 1) for i in range(count)), zero])
    _quantize(call, joined, _step_of(call, low, high, dtype), dtype, call.output())
    _give_range(call, low, high)


@converter("_sg_mkldnn_conv", outputs=3, quantized=True)
def fused_convolution(call: Call) -> None:
    """``Conv``, what is fused with it, and ``QuantizeLinear``.

    The layer holds a graph: a convolution, and possibly a BatchNorm, an activation, a sum with
    another input, and an activation of that.  BatchNorm becomes part of the weight, which is then
    quantized by output channel (``subgraph/mkldnn/mkldnn_conv.cc``).
    """
    call.require(call.flag("quantized"), "it is not quantized")
    _calibrated(call)
    held = _held(call)
    layer = held.pop("Convolution", None)
    call.require(layer is not None, "it holds no convolution")
    assert layer is not None
    groups = int(layer.get("num_group", "1"))
    # MXNet takes the step of the wrong channel for them.
    single = groups in (1, call.shape(1)[0])
    call.require(single, f"{groups} groups of several channels")
    last = len(call.inputs) - (4 if call.flag("with_sum") else 2)
    data, step = _dequantized(call, 0, last)
    places = iter(range(1, last))
    weight = call.input(next(places))
    bias = None if _is_set(layer, "no_bias") else call.input(next(places))
    if (norm := held.pop("BatchNorm", None)) is not None:
        states = [call.input(next(places)) for _ in range(4)]
        weight, bias = _folded(call, norm, weight, bias, states)
    operands = _by_channel(call, step, weight, bias)
    result = _layer(call, layer, [data, *operands])
    added = None
    if call.flag("with_sum"):
        dtype, made = call.dtype(last - 1), call.outputs[0].dtype
        call.require(dtype == made, f"MXNet takes the {dtype} that it adds for {made}")
        added, _ = _dequantized(call, last - 1, last + 2)
    _requantize(call, _fused(call, held, result, added))


@converter("_sg_mkldnn_fully_connected", outputs=3, quantized=True)
def fused_fully_connected(call: Call) -> None:
    """``Gemm`` or ``MatMul``, an activation that is fused with it, and ``QuantizeLinear``.

    Weight and bias are int8, each with a range, or float32 and quantized by output channel
    (``subgraph/mkldnn/mkldnn_fc.cc``).
    """
    call.require(call.flag("quantized"), "it is not quantized")
    gives_float = call.flag("enable_float_output")
    if not gives_float:
        _calibrated(call)
    held = _held(call)
    layer = held.pop("FullyConnected", None)
    call.require(layer is not None, "it holds no dense layer")
    assert layer is not None
    count = 2 if _is_set(layer, "no_bias") else 3
    data, step = _dequantized(call, 0, count)
    if call.flag("channel_wise_quantize"):
        bias = call.input(2) if count == 3 else None
        operands = _by_channel(call, step, call.input(1), bias)
    else:
        weight, weight_step = _dequantized(call, 1, count + 2)
        operands = [weight]
        if count == 3:
            bias, _ = _dequantized(call, 2, count + 4)
            operands.append(_in_steps(call, bias, call.emit("Mul", [step, weight_step])))
    result = _fused(call, held, _layer(call, layer, [data, *operands]))
    if gives_float:
        call.emit("Identity", [result], output=call.output())
    else:
        _requantize(call, result)


# -- ranges and steps --------------------------------------------------------------------------


def _calibrated(call: Call) -> tuple[float, float]:
    """The ends of the range that calibration saw."""
    for key in ("min_calib_range", "max_calib_range"):
        call.require(call.given(key), _AT_RUN_TIME)
    return call.number("min_calib_range"), call.number("max_calib_range")


def _out_dtype(call: Call) -> np.dtype[Any]:
    call.require_dtype(call.outputs[0], _STEPS.keys())
    dtype = call.outputs[0].dtype
    assert dtype is not None
    return dtype


def _step(low: float, high: float, dtype: np.dtype[Any]) -> float:
    return max(abs(low), abs(high)) / _STEPS[dtype] or _SMALLEST


def _step_of(call: Call, low: str, high: str, dtype: np.dtype[Any]) -> str:
    """The step of a range of two tensors, a scalar."""
    ends = [call.emit("Abs", [end]) for end in (low, high)]
    step = call.emit("Div", [call.emit("Max", ends), call.constant([_STEPS[dtype]])])
    step = call.emit("Max", [step, call.constant([_SMALLEST])])
    return call.emit("Squeeze", [step, call.indices([0])])


def _quantize(call: Call, name: str, step: str, dtype: np.dtype[Any], output: str) -> None:
    call.emit("QuantizeLinear", [name, step, call.constant(0, dtype)], output=output)


def _dequantized(call: Call, place: int, first: int, output: str | None = None) -> tuple[str, str]:
    """An input as float32, and its step.

    Args:
        call: The node.
        place: Which input it is.
        first: Which one the lower end of its range is; the upper end comes next.
        output: The name of the result, a fresh one by default.
    """
    call.require_dtype(call.inputs[place], _STEPS.keys())
    dtype = call.dtype(place)
    step = _step_of(call, call.input(first), call.input(first + 1), dtype)
    read = [call.input(place), step, call.constant(0, dtype)]
    return call.emit("DequantizeLinear", read, output=output), step


def _give_range(call: Call, low: str, high: str) -> None:
    for place, end in ((1, low), (2, high)):
        call.emit("Identity", [end], output=call.output(place))


def _requantize(call: Call, name: str) -> None:
    """Give a float32 value as the node's output, in the range that was calibrated."""
    low, high = _calibrated(call)
    dtype = _out_dtype(call)
    _quantize(call, name, call.constant(_step(low, high, dtype)), dtype, call.output())
    _give_range(call, call.constant([low]), call.constant([high]))


def _between(call: Call, op: str) -> None:
    """An operator that keeps the range of its only input."""
    dtype = _out_dtype(call)
    call.require(dtype == call.dtype(), f"{dtype} made of {call.dtype()}")
    value, step = _dequantized(call, 0, 1)
    result = call.nested(op, call.node.attrs, [(value, call.shape())], call.out_shape())
    _quantize(call, result, step, dtype, call.output())
    _give_range(call, call.input(1), call.input(2))


# -- layers that hold a graph ------------------------------------------------------------------


def _held(call: Call) -> dict[str, Mapping[str, str]]:
    """The operators that a layer holds, in order, with their attributes."""
    try:
        (graph,) = call.node.raw["subgraphs"]
        nodes = [node for node in graph["nodes"] if node["op"] != "null"]
        found = [(str(node["op"]), dict(node.get("attrs") or {})) for node in nodes]
    except (KeyError, TypeError, ValueError):
        raise Unsupported("the graph that it holds is not understood") from None
    held: dict[str, Mapping[str, str]] = dict(found)
    call.require(len(held) == len(found), "it holds an operator twice")
    return held


def _is_set(attrs: Mapping[str, str], key: str) -> bool:
    return attrs.get(key, "False").lower() in ("1", "true")


def _layer(call: Call, attrs: Mapping[str, str], operands: Sequence[str]) -> str:
    """The product of data with weight and, if there is one, bias."""
    op = "Convolution" if call.node.op == "_sg_mkldnn_conv" else "FullyConnected"
    attrs = {**attrs, "no_bias": str(len(operands) < 3)}
    shapes = [call.shape(), call.shape(1), call.shape(1)[:1]]
    return call.nested(op, attrs, list(zip(operands, shapes, strict=False)), call.out_shape())


def _fused(
    call: Call, held: Mapping[str, Mapping[str, str]], value: str, added: str | None = None
) -> str:
    """What the rest of a held graph makes of the layer's value."""
    shape = call.out_shape()
    for op, attrs in held.items():
        if op == "elemwise_add" and added is not None:
            value = call.emit("Add", [value, added])
        else:
            call.require(op in _FUSED, f"it holds {op}")
            value = call.nested(op, attrs, [(value, shape)], shape)
    return value


def _folded(
    call: Call, norm: Mapping[str, str], weight: str, bias: str | None, states: Sequence[str]
) -> tuple[str, str]:
    """Weight and bias of a convolution with the BatchNorm behind it, rounded as MXNet does."""
    gamma, beta, mean, variance = states
    double, single = np.dtype(np.float64), _SINGLE
    wide = call.emit("Cast", [variance], to=tensor_type(double))
    shifted = call.emit("Add", [wide, call.constant([float(norm.get("eps", 1e-3))], double)])
    fixed = norm.get("fix_gamma", "True").lower() in ("1", "true")
    ones = call.constant([1], double)
    over = ones if fixed else call.emit("Cast", [gamma], to=tensor_type(double))
    factor = call.emit("Div", [over, call.emit("Sqrt", [shifted])])
    factor = call.emit("Cast", [factor], to=tensor_type(single))
    centre = call.emit("Neg", [mean]) if bias is None else call.emit("Sub", [bias, mean])
    moved = call.emit("Add", [beta, call.emit("Mul", [factor, centre])])
    return call.emit("Mul", [weight, _along_rows(call, factor)]), moved


def _along_rows(call: Call, name: str) -> str:
    """Numbers of output channels, to be multiplied with a weight."""
    return call.emit("Unsqueeze", [name, call.indices(range(1, call.rank(1)))])


def _by_channel(call: Call, data_step: str, weight: str, bias: str | None) -> list[str]:
    """Weight and bias in whole steps, which differ between output channels.

    The largest number of a channel is half way between two of them, so that it is rounded as MXNet
    does only where it is multiplied with the same factor.
    """
    channels = call.shape(1)[0]
    size = call.emit("Abs", [weight])
    reach = call.emit("ReduceMax", [size], axes=[*range(1, call.rank(1))], keepdims=0)
    bounds = [call.emit("Div", [call.constant([_STEPS[_INT8]]), reach]), call.constant([_MOST])]
    if bias is not None:
        most = call.emit("Div", [call.constant([_MOST_OF_BIAS]), call.emit("Abs", [bias])])
        bounds.append(call.emit("Mul", [most, data_step]))
    factor = call.emit("Min", bounds)
    scaled = call.emit("Mul", [weight, _along_rows(call, factor)])
    ends = [call.constant(end) for end in (-128, 127)]
    whole = call.emit("Clip", [call.emit("Round", [scaled]), *ends])
    whole = call.emit("Cast", [whole], to=tensor_type(_INT8))
    step = call.emit("Reciprocal", [factor])
    zero = call.constant([0] * channels, _INT8)
    rounded = call.emit("DequantizeLinear", [whole, step, zero], axis=0)
    if bias is None:
        return [rounded]
    return [rounded, _in_steps(call, bias, call.emit("Mul", [step, data_step]))]


def _in_steps(call: Call, bias: str, step: str) -> str:
    """A bias in whole steps of the sums that it is added to."""
    count = call.emit("Round", [call.emit("Div", [bias, step])])
    whole = call.emit("Cast", [count], to=tensor_type(np.dtype(np.int32)))
    return call.emit("DequantizeLinear", [whole, step], axis=0)
