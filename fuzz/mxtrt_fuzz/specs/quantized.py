"""Layers of models that MXNet quantized for oneDNN: int8 or uint8 with the ends of a range."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from typing import Any

import numpy as np
from hypothesis import strategies as st

from mxtrt_fuzz.graphs import HELD, Shape
from mxtrt_fuzz.specs.base import (
    Application,
    Attributes,
    Draw,
    Operand,
    OpSpec,
    any_rank,
    maybe,
    rank_at_least,
    ranks,
    register,
)
from mxtrt_fuzz.specs.nn import convolution, draw_convolution
from mxtrt_fuzz.specs.pooling import draw_pooling, pooling
from mxtrt_fuzz.values import Array

_STEPS = {"int8": 127.5, "uint8": 255.5}
_LIMITS = {"int8": (-128, 127), "uint8": (0, 255)}

# No half of a whole number is half way between two steps of them.
_RANGE = {
    "min_calib_range": st.sampled_from([-1.713, -0.307, 0.0, 0.211]),
    "max_calib_range": st.sampled_from([0.913, 2.317, 6.131]),
}


def _ends(lowest: float = -2.0) -> tuple[Operand, Operand]:
    """The range of an input."""
    low = Operand((1,), "weight", lowest, min(lowest + 1, 0.1), own=True, dtype="float32")
    return low, Operand((1,), "weight", 0.5, 2, own=True, dtype="float32")


def _step(low: Any, high: Any, dtype: str) -> Any:
    return np.maximum(np.maximum(np.abs(low), np.abs(high)) / _STEPS[dtype], 2.0**-31)


def _whole(values: Array, step: Any, dtype: str) -> Array:
    return np.clip(np.rint(values / step), *_LIMITS[dtype])


def _calibrated(attrs: Attributes) -> tuple[Array, Array]:
    """The range of the output, which MXNet keeps as float32."""
    low, high = (np.float32(attrs[f"{end}_calib_range"]) for end in ("min", "max"))
    return np.array([low], np.float64), np.array([high], np.float64)


def _requantized(attrs: Attributes, values: Array, dtype: str) -> tuple[Array, Array, Array]:
    low, high = _calibrated(attrs)
    return _whole(values, _step(low, high, dtype), dtype), low, high


def _draw_range(draw: Draw) -> dict[str, Any]:
    return {key: draw(values) for key, values in _RANGE.items()}


# -- one by one -----------------------------------------------------------------------------------


def _draw_quantize(draw: Draw, shape: Shape) -> Application:
    kinds = st.sampled_from(["auto", "int8", "uint8"])
    return Application(_draw_range(draw) | maybe(draw, out_type=kinds))


def _quantized_type(attrs: Attributes) -> str:
    kind: str = attrs.get("out_type", "int8")
    if kind == "auto":
        return "uint8" if attrs["min_calib_range"] >= 0 else "int8"
    return kind


def _quantize(attrs: Attributes, x: Array) -> tuple[Array, ...]:
    dtype = _quantized_type(attrs)
    whole, low, high = _requantized(attrs, x, dtype)
    if dtype == "int8":
        high = np.maximum(np.abs(low), np.abs(high))
        low = -high
    return whole, low, high


def _dequantize(attrs: Attributes, x: Array, low: Array, high: Array) -> Array:
    dtype = attrs.dtype if attrs.dtype in _STEPS else "int8"  # shapes are asked for without one
    return np.asarray(x * _step(low, high, dtype))


def _draw_pooling(draw: Draw, shape: Shape) -> Application:
    attrs = dict(draw_pooling(draw, shape).attrs)
    for key in ("layout", "p_value"):  # oneDNN pools with the channels first, and has two kinds
        attrs.pop(key, None)
    attrs["pool_type"] = draw(st.sampled_from(["max", "avg"]))
    if attrs.get("global_pool"):
        windows = shape[2:]
        attrs["kernel"] = (1, 1)
    else:
        windows = attrs["kernel"]
        windows = tuple(min(k, size) for k, size in zip(windows, shape[2:], strict=True))
        attrs["kernel"] = windows
        whole = attrs.get("pooling_convention", "valid") == "valid"
        if attrs["pool_type"] == "avg" and not (whole and not any(attrs.get("pad", ()))):
            attrs["pool_type"] = "max"
    if prod(windows) % 2 == 0:
        # A mean may be half way between two numbers, and is rounded either way.
        attrs["pool_type"] = "max"
    return Application(attrs, _ends())


def _with_range(function: Callable[[Attributes, Array], Array]) -> Callable[..., Any]:
    """Of what a function computes of a value, the nearest in the same range."""

    def reference(attrs: Attributes, x: Array, low: Array, high: Array) -> tuple[Array, ...]:
        limits = _LIMITS.get(attrs.dtype, (-128, 127))
        return np.clip(np.rint(function(attrs, x)), *limits), low, high

    return reference


def _draw_concat(draw: Draw, shape: Shape) -> Application:
    axis = draw(st.integers(0, len(shape) - 1))
    others = []
    for _ in range(draw(st.integers(0, 2))):
        size = draw(st.integers(1, 3))
        others.append(Operand((*shape[:axis], size, *shape[axis + 1 :])))
    ranges = [end for _ in range(len(others) + 1) for end in _ends()]
    attrs = {"num_args": len(others) + 1}
    if axis != 1 or draw(st.booleans()):
        attrs["dim"] = axis
    return Application(attrs, (*others, *ranges))


def _concat(attrs: Attributes, *inputs: Array) -> tuple[Array, ...]:
    count, dtype = attrs["num_args"], attrs.dtype if attrs.dtype in _STEPS else "int8"
    ends = inputs[count:]
    low = np.minimum.reduce([*ends[::2], np.zeros(1)])
    high = np.maximum.reduce([*ends[1::2], np.zeros(1)])
    pairs = zip(inputs[:count], ends[::2], ends[1::2], strict=True)
    parts = [x * _step(first, last, dtype) for x, first, last in pairs]
    joined = np.concatenate(parts, attrs.get("dim", 1))
    return _whole(joined, _step(low, high, dtype), dtype), low, high


# -- layers with what is fused -------------------------------------------------------------------


def _held(layers: Sequence[tuple[str, dict[str, Any], int]]) -> str:
    """A graph of operators, each with so many variables after its first input."""
    nodes: list[dict[str, Any]] = [{"op": "null", "name": "data", "inputs": []}]
    last = 0
    for op, attrs, count in layers:
        inputs = [[last, 0, 0]]
        for place in range(count):
            inputs.append([len(nodes), 0, 0])
            nodes.append({"op": "null", "name": f"{op}{place}", "inputs": []})
        last = len(nodes)
        texts = {key: str(value) for key, value in attrs.items()}
        nodes.append({"op": op, "name": f"the_{op}", "attrs": texts, "inputs": inputs})
    variables = [i for i, node in enumerate(nodes) if node["op"] == "null"]
    return json.dumps({"nodes": nodes, "arg_nodes": variables, "heads": [[last, 0, 0]]})


def _layers(attrs: Attributes) -> dict[str, Attributes]:
    """The operators that a layer holds, by name."""
    nodes = json.loads(attrs.given(HELD) or "")["nodes"]
    return {
        node["op"]: Attributes(tuple(node["attrs"].items()))
        for node in nodes
        if node["op"] != "null"
    }


_ACTIVATIONS: list[tuple[str, dict[str, Any], int]] = [
    ("Activation", {"act_type": "relu"}, 0),
    ("clip", {"a_min": 0, "a_max": 6}, 0),
    ("LeakyReLU", {"act_type": "leaky", "slope": 0.25}, 0),
]


def _activation(draw: Draw) -> tuple[str, dict[str, Any], int]:
    return draw(st.sampled_from(_ACTIVATIONS))


def _draw_fused_convolution(draw: Draw, shape: Shape) -> Application:
    plain = draw_convolution(draw, shape)
    layer = dict(plain.attrs)
    weight, *bias = plain.operands
    if layer.get("num_group", 1) > 1:
        # Of several channels in a group MXNet takes the step of another channel for some.
        layer |= {"num_filter": shape[1], "num_group": shape[1]}
        weight = dataclasses.replace(weight, shape=(shape[1], 1, *weight.shape[2:]))
        bias = [dataclasses.replace(one, shape=(shape[1],)) for one in bias]
    layers = [("Convolution", layer, 1 + len(bias))]
    attrs: dict[str, Any] = _draw_range(draw) | {"quantized": "true"}
    operands: list[Operand] = [weight, *bias]
    operands = [Operand(o.shape, "weight", o.low, o.high, dtype="float32") for o in operands]
    channels = weight.shape[0]
    if draw(st.booleans()):
        attrs["with_bn"] = "true"
        layers.append(("BatchNorm", maybe(draw, fix_gamma=st.booleans(), eps=st.just(1e-4)), 4))
        roles: Any = ("weight", "weight", "aux", "aux")
        bounds = ((0.5, 1.5), (-1, 1), (-1, 1), (0.5, 1.5))
        operands += [
            Operand((channels,), role, *ends, own=True, dtype="float32")
            for role, ends in zip(roles, bounds, strict=True)
        ]
    out = convolution(
        Attributes([(key, str(value)) for key, value in layer.items()]),
        np.zeros(shape),
        np.zeros(weight.shape),
    ).shape
    added: list[Operand] = []
    form = draw(st.sampled_from(["alone", "act", "sum", "sum and act"]))
    if form == "act":
        attrs["with_act"] = "true"
        layers.append(_activation(draw))
    if "sum" in form:
        attrs["with_sum"] = "true"
        layers.append(("elemwise_add", {}, 1))
        # MXNet adds what is of another dtype as if it were of that of the output.
        kind = "uint8" if "act" in form else "int8"
        operands.append(Operand(out, "data", *_LIMITS[kind], dtype=kind))
        added = list(_ends(0.0))
    if form == "sum and act":
        attrs["with_postsum_act"] = "true"
        layers.append(("Activation", {"act_type": "relu"}, 0))
    attrs[HELD] = _held(layers)
    # Of uint8 no number is negative.
    return Application(attrs, (*operands, *_ends(0.0), *added))


def _fused_type(attrs: Attributes) -> str:
    held = _layers(attrs)
    if "elemwise_add" in held or "FullyConnected" not in held:
        act = held.get("LeakyReLU")
        positive = "Activation" in held or "clip" in held
        return "uint8" if positive and act is None else "int8"
    return "uint8" if {"Activation", "clip", "LeakyReLU"} & held.keys() else "int8"


def _fused_convolution(attrs: Attributes, x: Array, *inputs: Array) -> tuple[Array, ...]:
    held, rest = _layers(attrs), list(inputs)
    layer, norm = held["Convolution"], held.get("BatchNorm")
    weight = rest.pop(0)
    bias = [] if layer.get("no_bias", False) else [rest.pop(0)]
    if norm is not None:
        gamma, beta, mean, variance = (rest.pop(0) for _ in range(4))
        if norm.get("fix_gamma", True):
            gamma = np.ones_like(gamma)
        # As MXNet rounds them: of a channel the largest number is half way between two steps.
        factor = (gamma / np.sqrt(variance + norm.get("eps", 1e-3))).astype(np.float32)
        weight = weight.astype(np.float32) * factor.reshape(-1, *(1,) * (weight.ndim - 1))
        bias = [beta + factor * ((bias[0] if bias else 0) - mean)]
    added = rest.pop(0) if "elemwise_add" in held else None
    dtype = attrs.dtype if attrs.dtype in _STEPS else "int8"
    step = _step(rest[0], rest[1], dtype)
    value = convolution(layer, x * step, *_by_channel(weight, bias, step))
    result = _fused_type(attrs)
    if added is None:
        value = _activated(held, value)
    else:
        value = _activated(held, value + added * _step(rest[2], rest[3], result))
    return _requantized(attrs, value, result)


def _by_channel(weight: Array, bias: Sequence[Array], step: Any) -> list[Array]:
    """Weight and bias in whole steps of every output channel, rounded as MXNet does."""
    weight = weight.astype(np.float32)
    reach = np.abs(weight).reshape(len(weight), -1).max(1)
    factors = np.float32(127.5) / np.maximum(reach, np.float32(127.5 * 2.0**-31))
    if bias:
        most = 2.0**30 / np.maximum(np.abs(bias[0]), 1e-30) * step
        factors = np.minimum(factors, most.astype(np.float32))
    rows = factors.reshape(-1, *(1,) * (weight.ndim - 1))
    whole = np.clip(np.rint(weight * rows), *_LIMITS["int8"])
    steps = 1 / factors.astype(np.float64)
    return [whole / rows.astype(np.float64), *(_in_steps(b, steps * step) for b in bias)]


def _in_steps(bias: Array, step: Any) -> Array:
    return np.asarray(np.rint(bias / step) * step)


def _activated(held: dict[str, Attributes], value: Array) -> Array:
    if "Activation" in held:
        return np.maximum(value, 0)
    if "clip" in held:
        return np.clip(value, 0, 6)
    return np.where(value < 0, 0.25 * value, value) if "LeakyReLU" in held else value


def _draw_fused_dense(draw: Draw, shape: Shape) -> Application:
    layer: dict[str, Any] = {"num_hidden": draw(st.integers(1, 8))}
    layer |= maybe(draw, no_bias=st.booleans(), flatten=st.booleans())
    count = prod(shape[1:]) if layer.get("flatten", True) else shape[-1]
    hidden = layer["num_hidden"]
    attrs: dict[str, Any] = {"quantized": "True"}
    by_channel = draw(st.booleans())
    if by_channel:
        attrs["channel_wise_quantize"] = "True"
    if draw(st.booleans()):
        attrs["enable_float_output"] = "True"
    else:
        attrs |= _draw_range(draw)
    shapes = [(hidden, count)] if layer.get("no_bias") else [(hidden, count), (hidden,)]
    layers = [("FullyConnected", layer, len(shapes))]
    if draw(st.booleans()):
        attrs["with_eltwise"] = "True"
        layers.append(_activation(draw))
    if by_channel:
        operands = [Operand(size, "weight", -1, 1, dtype="float32") for size in shapes]
    else:
        operands = [Operand(size, "weight", -127, 127, dtype="int8") for size in shapes]
    ranges = [end for _ in shapes for end in _ends()] if not by_channel else []
    attrs[HELD] = _held(layers)
    return Application(attrs, (*operands, *_ends(0.0), *ranges))


def _fused_dense(attrs: Attributes, x: Array, weight: Array, *inputs: Array) -> Any:
    held, rest = _layers(attrs), list(inputs)
    layer = held["FullyConnected"]
    bias = None if layer.get("no_bias", False) else rest.pop(0)
    dtype = attrs.dtype if attrs.dtype in _STEPS else "int8"
    step = _step(rest[0], rest[1], dtype)
    if attrs.get("channel_wise_quantize", False):
        weight, *sums = _by_channel(weight, [] if bias is None else [bias], step)
    else:
        steps = _step(rest[2], rest[3], "int8")
        weight, sums = weight * steps, []
        if bias is not None:
            sums = [_in_steps(bias * _step(rest[4], rest[5], "int8"), steps * step)]
    value = x * step
    value = (value.reshape(len(x), -1) if layer.get("flatten", True) else value) @ weight.T
    if sums:
        value = value + sums[0]
    value = _activated(held, value)
    if attrs.get("enable_float_output", False):
        return value
    return _requantized(attrs, value, _fused_type(attrs))


def _dense_types(attrs: Attributes, dtype: str) -> str | tuple[str, ...]:
    if attrs.get("enable_float_output", False):
        return "float32"
    return _fused_type(attrs), "float32", "float32"


_WHOLE = ("int8", "uint8")
_spec = partial(OpSpec, roundings=3, nan_blind=True, hybrid=False)

register(
    _spec(
        "_contrib_quantize_v2",
        _draw_quantize,
        _quantize,
        dtypes=("float32",),
        result=lambda attrs, _: (_quantized_type(attrs), "float32", "float32"),
    ),
    _spec(
        "_contrib_dequantize",
        lambda draw, shape: Application({}, _ends()),
        _dequantize,
        any_rank,
        dtypes=_WHOLE,
        result=lambda attrs, _: "float32",
    ),
    _spec(
        "_contrib_quantized_pooling",
        _draw_pooling,
        _with_range(lambda attrs, x: pooling(attrs, x.astype(np.float64))),
        ranks(4),
        dtypes=_WHOLE,
        result=lambda attrs, dtype: (dtype, "float32", "float32"),
    ),
    _spec(
        "_contrib_quantized_flatten",
        lambda draw, shape: Application({}, _ends()),
        _with_range(lambda attrs, x: x.reshape(len(x), -1)),
        rank_at_least(2),
        dtypes=_WHOLE,
        result=lambda attrs, dtype: (dtype, "float32", "float32"),
    ),
    _spec(
        "_contrib_quantized_act",
        lambda draw, shape: Application({"act_type": "relu"}, _ends()),
        _with_range(lambda attrs, x: np.maximum(x, 0)),
        any_rank,
        dtypes=("int8",),
        result=lambda attrs, dtype: (dtype, "float32", "float32"),
    ),
    _spec(
        "_contrib_quantized_concat",
        _draw_concat,
        _concat,
        rank_at_least(2),
        dtypes=_WHOLE,
        result=lambda attrs, dtype: (dtype, "float32", "float32"),
    ),
    _spec(
        "_sg_mkldnn_conv",
        _draw_fused_convolution,
        _fused_convolution,
        ranks(4),
        dtypes=_WHOLE,
        result=lambda attrs, _: (_fused_type(attrs), "float32", "float32"),
    ),
    _spec(
        "_sg_mkldnn_fully_connected",
        _draw_fused_dense,
        _fused_dense,
        rank_at_least(2),
        dtypes=_WHOLE,
        result=_dense_types,
    ),
)
