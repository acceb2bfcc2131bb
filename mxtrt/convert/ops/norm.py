"""Converters of normalisation layers."""

from __future__ import annotations

import numpy as np

from mxtrt.convert.ops.registry import Call, converter
from mxtrt.errors import Unsupported


@converter("BatchNorm", "_contrib_SyncBatchNorm", outputs=1)
def batch_norm(call: Call) -> None:
    """``BatchNormalization`` with the moving statistics, as MXNet does at inference.

    ``fix_gamma`` is true by default and then gamma's values are ignored, whatever they are
    (``nn/batch_norm.cc``); a channel axis other than 1 is transposed there and back.
    """
    call.require_floats()
    call.require(not call.flag("output_mean_var"), "output_mean_var=True")
    rank, axis = call.rank(), call.axis("axis", 1)
    call.require(rank > 1, "a tensor of rank 1")
    data, gamma, beta, mean, variance = (call.input(i) for i in range(5))
    if call.flag("fix_gamma", True):
        gamma = call.constant(np.ones(call.shape()[axis]))
    operands = [data, gamma, beta, mean, variance]
    epsilon = call.number("eps", 1e-3)
    if axis == 1:
        call.emit("BatchNormalization", operands, output=call.output(), epsilon=epsilon)
        return
    order = [i for i in range(rank) if i != axis]
    order.insert(1, axis)
    operands[0] = call.emit("Transpose", [data], perm=order)
    normed = call.emit("BatchNormalization", operands, epsilon=epsilon)
    back = [order.index(i) for i in range(rank)]
    call.emit("Transpose", [normed], output=call.output(), perm=back)


@converter("InstanceNorm", outputs=1)
def instance_norm(call: Call) -> None:
    """``InstanceNormalization`` over every axis after the channels."""
    call.require_floats()
    call.require(call.rank() >= 3, "a tensor of rank less than 3")
    call.emit(
        "InstanceNormalization",
        [call.input(i) for i in range(3)],
        output=call.output(),
        epsilon=call.number("eps", 1e-3),
    )


@converter("GroupNorm", outputs=1)
def group_norm(call: Call) -> None:
    """``InstanceNormalization`` of the groups, flattened; gamma and beta are per group."""
    call.require_floats()
    call.require(not call.flag("output_mean_var"), "output_mean_var=True")
    groups = call.integer("num_groups", 1)
    flat = call.emit("Reshape", [call.input(), call.indices([0, groups, -1])])
    normed = call.emit(
        "InstanceNormalization",
        [flat, call.input(1), call.input(2)],
        epsilon=call.number("eps", 1e-5),
    )
    shape = call.indices([0, *call.shape()[1:]])
    call.emit("Reshape", [normed, shape], output=call.output())


@converter("LayerNorm", outputs=1)
def layer_norm(call: Call) -> None:
    """Mean and variance over one axis, in the form that ONNX Runtime fuses.

    TensorRT 8.5 has no ``LayerNormalization``, hence the primitive operators.
    """
    call.require_floats()
    call.require(not call.flag("output_mean_var"), "output_mean_var=True")
    axis = call.axis("axis", -1)
    data, gamma, beta = (call.input(i) for i in range(3))
    trailing = list(range(1, call.rank() - axis))
    if trailing:
        axes = call.indices(trailing)
        gamma, beta = (call.emit("Unsqueeze", [name, axes]) for name in (gamma, beta))
    mean = call.emit("ReduceMean", [data], axes=[axis], keepdims=1)
    centred = call.emit("Sub", [data, mean])
    square = call.emit("Pow", [centred, call.constant(2)])
    variance = call.emit("ReduceMean", [square], axes=[axis], keepdims=1)
    shifted = call.emit("Add", [variance, call.constant(call.number("eps", 1e-5))])
    normed = call.emit("Div", [centred, call.emit("Sqrt", [shifted])])
    call.emit("Add", [call.emit("Mul", [normed, gamma]), beta], output=call.output())


@converter("L2Normalization", outputs=1)
def l2_normalization(call: Call) -> None:
    """Division by sqrt(sum of squares + eps): eps is under the root (l2_normalization-inl.h)."""
    call.require_floats()
    mode, rank = call.text("mode", "instance"), call.rank()
    reduced = {"instance": range(1, rank), "channel": range(1, 2), "spatial": range(2, rank)}
    if mode not in reduced:
        raise Unsupported(f"mode={mode} is not known")
    call.require(rank >= (2 if mode == "instance" else 3), f"mode={mode} on rank {rank}")
    axes = call.indices(reduced[mode])
    square = call.emit("Mul", [call.input(), call.input()])
    total = call.emit("ReduceSum", [square, axes], keepdims=1)
    shifted = call.emit("Add", [total, call.constant(call.number("eps", 1e-10))])
    call.emit("Div", [call.input(), call.emit("Sqrt", [shifted])], output=call.output())


@converter("LRN", outputs=1)
def lrn(call: Call) -> None:
    """``LRN`` across channels; ``knorm`` is ONNX's bias, 2 by default, and alpha is divided by n.

    MXNet's own kernel takes odd windows and rank 4 only (``nn/lrn-inl.h``); oneDNN runs an
    even one, centred differently from ONNX.
    """
    call.require_floats()
    size = call.integer("nsize")
    call.require(call.rank() == 4, f"LRN on rank {call.rank()}, not 4")
    call.require(size % 2 == 1, "an even nsize")
    call.emit(
        "LRN",
        [call.input()],
        output=call.output(),
        alpha=call.number("alpha", 1e-4),
        beta=call.number("beta", 0.75),
        bias=call.number("knorm", 2.0),
        size=size,
    )
