"""Converters of deformable convolutions, which read between the pixels at learned places."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mxtrt.convert.ops.nn import spatial
from mxtrt.convert.ops.registry import Call, converter

# A place outside of every picture.
_NOWHERE = -4.0

_HALF = "MXNet adds up the places in float16"


class _Layer(NamedTuple):
    """Attributes of a deformable convolution, those of space by axis.

    Attributes:
        groups: Into how many groups the channels are split that the kernels multiply.
        fields: The same of those that share their offsets.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilate: tuple[int, ...]
    pad: tuple[int, ...]
    groups: int
    fields: int

    @property
    def points(self) -> int:
        """How many points a kernel has."""
        return self.kernel[0] * self.kernel[1]


@converter("_contrib_DeformableConvolution", outputs=1, not_in_half=_HALF)
def deformable_convolution(call: Call) -> None:
    """``DeformConv`` (opset 19), or ``GridSample`` and ``Conv`` for engines that have none.

    The inputs are data ``(n, c, h, w)``, offsets ``(n, 2 * groups * points, *out)`` with y before
    x, the weight and the bias.  MXNet gives 0 at places before the first row or column, where ONNX
    fades out, and from the last one on what that holds (``contrib/nn/deformable_im2col.h``).
    """
    layer = _layer(call)
    offsets, grids = _offsets(call, layer), _grids(call, layer)
    places = [call.emit("Add", pair) for pair in zip(grids, offsets, strict=True)]
    sizes = call.shape()[2:]
    inside = [
        call.emit(op_type, [place, call.constant([bound])])
        for place, size in zip(places, sizes, strict=True)
        for op_type, bound in (("GreaterOrEqual", 0), ("Less", size))
    ]
    within = call.emit("And", [call.emit("And", inside[:2]), call.emit("And", inside[2:])])
    last = [call.constant([size - 1]) for size in sizes]
    # Not a mask of zeros: what is next to such a place may be NaN.
    nowhere = call.constant([_NOWHERE])
    if not _has_operator(call):
        held = [call.emit("Min", pair) for pair in zip(places, last, strict=True)]
        held = [call.emit("Where", [within, place, nowhere]) for place in held]
        _sample_and_convolve(call, layer, held)
        return
    held = []
    for offset, grid, end in zip(offsets, grids, last, strict=True):
        moved = call.emit("Min", [offset, call.emit("Sub", [end, grid])])
        away = call.emit("Sub", [nowhere, grid])
        held.append(call.emit("Where", [within, moved, away]))
    shape = call.indices([-1, 2 * layer.fields * layer.points, *call.out_shape()[2:]])
    _deform(call, layer, call.emit("Reshape", [call.emit("Concat", held, axis=2), shape]))


@converter("_contrib_ModulatedDeformableConvolution", outputs=1, not_in_half=_HALF)
def modulated_deformable_convolution(call: Call) -> None:
    """``DeformConv`` (opset 19), or ``GridSample`` and ``Conv`` for engines that have none.

    The inputs are data ``(n, c, h, w)``, offsets ``(n, 2 * groups * points, *out)`` with y before
    x, a mask ``(n, groups * points, *out)`` of factors, the weight and the bias.  Around the data
    lie zeros (``contrib/nn/modulated_deformable_im2col.h``).
    """
    layer = _layer(call)
    if _has_operator(call):
        _deform(call, layer, call.input(1), call.input(2))
        return
    offsets, grids = _offsets(call, layer), _grids(call, layer)
    places = [call.emit("Add", pair) for pair in zip(grids, offsets, strict=True)]
    _sample_and_convolve(call, layer, places, call.input(2))


def _layer(call: Call) -> _Layer:
    """The attributes, checked."""
    call.require_floats()
    kernel = call.integers("kernel")
    call.require(len(kernel) == 2, f"a kernel of {len(kernel)} axes")
    layout = call.text("layout", "NCHW")
    call.require(layout == "NCHW", f"layout {layout} is not NCHW")
    stride, dilate = (spatial(call, key, 1, 2) for key in ("stride", "dilate"))
    pad = spatial(call, "pad", 0, 2)
    groups, fields = call.integer("num_group", 1), call.integer("num_deformable_group", 1)
    # MXNet infers the shapes without a look at these, and reads beyond the arrays.
    learned = call.inputs[1 : len(call.inputs) - len(_weights(call))]
    batches = {tensor.shape[0] for tensor in learned if tensor.shape}
    call.require(batches == {call.shape()[0]}, "other offsets than for each picture")
    count = 2 * kernel[0] * kernel[1] * fields
    call.require(call.shape(1)[1] == count, f"{call.shape(1)[1]} offsets, not {count}")
    return _Layer(kernel, stride, dilate, pad, groups, fields)


def _weights(call: Call) -> list[str]:
    """The weight and, unless the layer has none, the bias: the last inputs."""
    count = 1 if call.flag("no_bias") else 2
    return [call.input(place) for place in range(len(call.inputs) - count, len(call.inputs))]


def _has_operator(call: Call) -> bool:
    return call.opset >= 19


def _deform(call: Call, layer: _Layer, offsets: str, mask: str | None = None) -> None:
    weight, *bias = _weights(call)
    call.emit(
        "DeformConv",
        [call.input(), weight, offsets, *(bias or [""]), *([mask] if mask else [])],
        output=call.output(),
        kernel_shape=layer.kernel,
        strides=layer.stride,
        dilations=layer.dilate,
        pads=layer.pad * 2,
        group=layer.groups,
        offset_group=layer.fields,
    )


def _offsets(call: Call, layer: _Layer) -> list[str]:
    """The offsets of y and of x: ``(n * fields, points, 1, *out)``."""
    shape = call.indices([-1, layer.points, 2, *call.out_shape()[2:]])
    split = call.emit("Reshape", [call.input(1), shape])
    parts = [call.fresh("y"), call.fresh("x")]
    call.emit_many("Split", [split, call.indices([1, 1])], parts, axis=2)
    return parts


def _grids(call: Call, layer: _Layer) -> list[str]:
    """Where a kernel without offsets reads, y and x; they broadcast to the offsets."""
    found = []
    points = np.mgrid[: layer.kernel[0], : layer.kernel[1]].reshape(2, -1, 1, 1, 1)
    for axis, count in enumerate(call.out_shape()[2:]):
        begins = points[axis] * layer.dilate[axis] - layer.pad[axis]
        steps = np.arange(count).reshape(-1, *(1,) * (1 - axis)) * layer.stride[axis]
        found.append(call.emit("Add", [call.constant(begins), call.constant(steps)]))
    return found


def _sample_and_convolve(
    call: Call, layer: _Layer, places: list[str], mask: str | None = None
) -> None:
    """The product of the weight with what lies at places, times the mask if there is one."""
    channels, *sizes = call.shape()[1:]
    height, width = call.out_shape()[2:]
    points, fields = layer.points, layer.fields
    # From -1 at the outer edge of the first pixel to 1 at that of the last one, x before y.
    scaled = []
    for place, size in zip(places[::-1], sizes[::-1], strict=True):
        shifted = call.emit("Add", [place, call.constant([0.5])])
        share = call.emit("Div", [shifted, call.constant([size / 2])])
        scaled.append(call.emit("Sub", [share, call.constant([1])]))
    grid = call.emit("Concat", scaled, axis=2)
    grid = call.emit("Transpose", [grid], perm=[0, 1, 3, 4, 2])
    grid = call.emit("Reshape", [grid, call.indices([0, points * height, width, 2])])
    data = call.input()
    if fields > 1:
        data = call.emit("Reshape", [data, call.indices([-1, channels // fields, *sizes])])
    read = call.emit(
        "GridSample",
        [data, grid],
        mode="bilinear",
        padding_mode="zeros",
        align_corners=0,
    )
    if mask is not None:
        split = [-1, channels // fields, points, height, width]
        read = call.emit("Reshape", [read, call.indices(split)])
        factors = call.emit("Reshape", [mask, call.indices([-1, 1, points, height, width])])
        read = call.emit("Mul", [read, factors])
    shape = call.indices([-1, channels * points, height, width])
    columns = call.emit("Reshape", [read, shape])
    row = channels // layer.groups * points
    weight, *bias = _weights(call)
    weight = call.emit("Reshape", [weight, call.indices([0, row, 1, 1])])
    call.emit(
        "Conv",
        [columns, weight, *bias],
        output=call.output(),
        kernel_shape=[1, 1],
        strides=[1, 1],
        dilations=[1, 1],
        pads=[0, 0, 0, 0],
        group=layer.groups,
    )
