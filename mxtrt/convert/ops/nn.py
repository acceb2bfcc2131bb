"""Converters of layers with weights (convolutions, fully connected, embedding) and of Dropout."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mxtrt.convert.onnx_builder import tensor_type
from mxtrt.convert.ops.registry import NUMBERS, Call, converter
from mxtrt.errors import Unsupported

__all__ = ["CHANNEL_FIRST", "spatial"]

#: The only layouts that MXNet's CPU convolutions accept, by number of spatial axes.
CHANNEL_FIRST = {1: "NCW", 2: "NCHW", 3: "NCDHW"}


def spatial(call: Call, key: str, default: int, rank: int) -> tuple[int, ...]:
    """A per-axis attribute; missing or empty means ``default`` on every spatial axis."""
    values = call.integers(key, ()) or (default,) * rank
    call.require(len(values) == rank, f"attribute {key} has {len(values)} values, not {rank}")
    return values


def _kernel(call: Call) -> tuple[int, ...]:
    """The kernel; its length has to be the number of spatial axes, in MXNet's default layout."""
    kernel = call.integers("kernel")
    rank = len(kernel)
    call.require(rank in CHANNEL_FIRST, f"a kernel of {rank} axes")
    call.require(call.rank() == rank + 2, f"a kernel of {rank} axes on rank {call.rank()}")
    layout = call.text("layout", CHANNEL_FIRST[rank])
    call.require(layout == CHANNEL_FIRST[rank], f"layout {layout} is not {CHANNEL_FIRST[rank]}")
    return kernel


def _operands(call: Call, no_bias: bool) -> list[str]:
    """ONNX names of data, weight and, unless the layer has none, bias."""
    count = 2 if no_bias else 3
    call.require(len(call.inputs) == count, f"{len(call.inputs)} inputs, not {count}")
    return [call.input(i) for i in range(count)]


@converter("Convolution", outputs=1)
def convolution(call: Call) -> None:
    """``Conv`` in 1, 2 or 3 spatial axes, channel-first (``nn/convolution-inl.h``)."""
    call.require_floats()
    kernel = _kernel(call)
    rank = len(kernel)
    call.emit(
        "Conv",
        _operands(call, call.flag("no_bias")),
        output=call.output(),
        kernel_shape=kernel,
        strides=spatial(call, "stride", 1, rank),
        dilations=spatial(call, "dilate", 1, rank),
        pads=spatial(call, "pad", 0, rank) * 2,
        group=call.integer("num_group", 1),
    )


@converter("Deconvolution", outputs=1)
def deconvolution(call: Call) -> None:
    """``ConvTranspose``; ``no_bias`` is true by default.

    ``target_shape`` overrides ``adj`` and ``pad``: the padding is half of what the output
    would be too large, rounded up, and ``adj`` gives the odd element back
    (``nn/deconvolution-inl.h``, ``InferPad``).  oneDNN however pads by ``pad`` as it was
    given and mostly fails, so it has to be the same.
    """
    call.require_floats()
    kernel = _kernel(call)
    rank = len(kernel)
    strides = spatial(call, "stride", 1, rank)
    dilations = spatial(call, "dilate", 1, rank)
    pads = spatial(call, "pad", 0, rank)
    adjust: Sequence[int] = spatial(call, "adj", 0, rank)
    target = call.integers("target_shape", ())
    if any(target):
        call.require(len(target) == rank, f"target_shape has {len(target)} values, not {rank}")
        excess = [
            s * (size - 1) + 1 + (k - 1) * d - wanted
            for s, size, k, d, wanted in zip(
                strides, call.shape()[2:], kernel, dilations, target, strict=True
            )
        ]
        call.require(min(excess) >= 0, "target_shape is larger than the output can be")
        implied = tuple((e + 1) // 2 for e in excess)
        call.require(pads == implied, f"pad={pads} where target_shape needs {implied}")
        adjust = [e % 2 for e in excess]
    call.emit(
        "ConvTranspose",
        _operands(call, call.flag("no_bias", True)),
        output=call.output(),
        kernel_shape=kernel,
        strides=strides,
        dilations=dilations,
        pads=pads * 2,
        output_padding=adjust if any(adjust) else None,
        group=call.integer("num_group", 1),
    )


@converter("FullyConnected", outputs=1)
def fully_connected(call: Call) -> None:
    """``Gemm`` on the flattened input, or ``MatMul`` over the last axis with flatten=False."""
    call.require_floats()
    no_bias = call.flag("no_bias")
    data, weight, *bias = _operands(call, no_bias)
    call.require(no_bias or call.rank(2) == 1, "a bias that is not a vector")
    flatten = call.flag("flatten", True)
    if flatten or call.rank() == 2:
        if call.rank() != 2:
            data = call.emit("Flatten", [data], axis=1)
        call.emit("Gemm", [data, weight, *bias], output=call.output(), transB=1)
        return
    transposed = call.emit("Transpose", [weight], perm=[1, 0])
    product = call.emit("MatMul", [data, transposed], output=call.output() if no_bias else None)
    if bias:
        call.emit("Add", [product, *bias], output=call.output())


@converter("Embedding", "_npx_embedding", moves_data_only=True, outputs=1)
def embedding(call: Call) -> None:
    """``Gather`` of rows of the weight.

    MXNet cuts off what is behind the point of an index, then takes the first row for what is
    below it and the last for what is above (``indexing_op.cc``).
    """
    for tensor in (*call.inputs, *call.outputs):
        call.require_dtype(tensor, NUMBERS)
    index, dtype = call.input(), call.dtype()
    if dtype not in (np.int32, np.int64):
        dtype = np.dtype(np.int64)
        index = call.emit("Cast", [index], to=tensor_type(dtype))
    index = call.emit("Max", [index, call.constant(0, dtype)])
    index = call.emit("Min", [index, call.constant(call.shape(1)[0] - 1, dtype)])
    call.emit("Gather", [call.input(1), index], output=call.output(), axis=0)


@converter("Dropout", moves_data_only=True, outputs=1)
def dropout(call: Call) -> None:
    """``Identity``: MXNet drops nothing at inference, unless mode='always'."""
    call.require_numbers()
    mode = call.text("mode", "training")
    if mode != "training":
        raise Unsupported(f"mode={mode} drops elements at inference")
    call.emit("Identity", [call.input()], output=call.output())
