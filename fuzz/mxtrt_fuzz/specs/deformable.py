"""Deformable convolutions."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from hypothesis import strategies as st

from mxtrt_fuzz.graphs import Shape
from mxtrt_fuzz.specs.base import (
    Application,
    Attributes,
    Draw,
    Operand,
    OpSpec,
    maybe,
    ranks,
    register,
)
from mxtrt_fuzz.values import Array


def _divisors(*numbers: int) -> st.SearchStrategy[int]:
    return st.sampled_from([g for g in (1, 2, 3) if not any(n % g for n in numbers)])


def _draw(draw: Draw, shape: Shape, modulated: bool) -> Application:
    channels = shape[1]
    groups = draw(_divisors(channels))
    filters = groups * draw(st.integers(1, 4))
    # The one with a mask wants the filters to be a multiple of them, too.
    fields = draw(_divisors(channels, filters) if modulated else _divisors(channels))
    kernel, pad, dilate, stride, out = [], [], [], [], []
    for size in shape[2:]:
        dilate.append(draw(st.sampled_from([1, 1, 2])))
        pad.append(draw(st.integers(0, 2)))
        stride.append(draw(st.integers(1, 2)))
        padded = size + 2 * pad[-1]
        kernel.append(draw(st.integers(1, min(3, (padded - 1) // dilate[-1] + 1))))
        out.append((padded - (kernel[-1] - 1) * dilate[-1] - 1) // stride[-1] + 1)
    attrs: dict[str, Any] = {"num_filter": filters, "kernel": tuple(kernel)}
    for key, values, default in (("pad", pad, 0), ("dilate", dilate, 1), ("stride", stride, 1)):
        if any(value != default for value in values) or draw(st.booleans()):
            attrs[key] = tuple(values)
    for key, value in (("num_group", groups), ("num_deformable_group", fields)):
        if value > 1 or draw(st.booleans()):
            attrs[key] = value
    attrs |= maybe(draw, no_bias=st.booleans(), layout=st.just("NCHW"))
    points = kernel[0] * kernel[1] * fields
    # MXNet casts every place to an integer: it has to be one that an integer can hold.
    operands = [Operand((shape[0], 2 * points, *out), "weight", -3, 3, own=True)]
    if modulated:
        # The batch has to be smaller than the step, or a multiple of it.
        steps = st.sampled_from([step for step in (1, 2, 64) if not shape[0] % min(step, shape[0])])
        attrs |= maybe(draw, im2col_step=steps)
        operands.append(Operand((shape[0], points, *out), "weight", 0, 1, own=True))
    operands.append(Operand((filters, channels // groups, *kernel), "weight", -1, 1))
    if not attrs.get("no_bias"):
        operands.append(Operand((filters,), "weight"))
    return Application(attrs, tuple(operands))


def _deformable(attrs: Attributes, x: Array, *inputs: Array, modulated: bool) -> Array:
    offsets, *rest = inputs
    kernel = attrs["kernel"]
    stride, dilate = (attrs.integers(key, (1, 1)) for key in ("stride", "dilate"))
    pad, fields = attrs.integers("pad", (0, 0)), attrs.get("num_deformable_group", 1)
    n = len(x)
    out, points = offsets.shape[2:], kernel[0] * kernel[1]
    split = offsets.reshape(n, fields, points, 2, *out)
    within = np.mgrid[: kernel[0], : kernel[1]].reshape(2, points, 1, 1)
    places = []
    for axis in (0, 1):
        begins = np.arange(out[axis]).reshape(-1, *(1,) * (1 - axis)) * stride[axis] - pad[axis]
        grid = (begins + within[axis] * dilate[axis]).astype(x.dtype)
        # As MXNet rounds them: at the edges it jumps.
        places.append((grid + split[:, :, :, axis]).astype(np.float32).astype(x.dtype))
    read = _read(x.reshape(n, fields, -1, *x.shape[2:]), places, fades=modulated)
    if modulated:
        read = read * rest.pop(0).reshape(n, fields, 1, points, *out)
    weight, *bias = rest
    groups = attrs.get("num_group", 1)
    rows = weight.reshape(groups, len(weight) // groups, -1)
    product = rows @ read.reshape(n, groups, -1, out[0] * out[1])
    product = product.reshape(n, len(weight), *out)
    return product + bias[0].reshape(-1, 1, 1) if bias else product


def _read(x: Array, places: list[Array], fades: bool) -> Array:
    """What lies at places.

    Args:
        x: Pictures ``(n, fields, channels, h, w)``.
        places: Their y and x ``(n, fields, points, *out)``.
        fades: Whether there are zeros around a picture; otherwise its last row and column go on
            for less than one pixel, and then come zeros.

    Returns:
        ``(n, fields, channels, points, *out)``.
    """
    height, width = x.shape[3:]
    known = np.ones(places[0].shape, bool)
    if not fades:
        known = np.logical_and.reduce(
            [(p >= 0) & (p < size) for p, size in zip(places, (height, width), strict=True)]
        )
        places = [np.minimum(p, size - 1) for p, size in zip(places, (height, width), strict=True)]
    low = [np.floor(place).astype(int) for place in places]
    batch, field = np.ogrid[: x.shape[0], : x.shape[1]]
    batch, field = (index.reshape(*index.shape, 1, 1, 1) for index in (batch, field))
    # ONNX Runtime takes some pixel times zero for what is outside, which may be NaN.
    with np.errstate(invalid="ignore"):
        nothing = (0 * x).sum((3, 4))[:, :, None, None, None]
    total: Any = 0
    for below in (0, 1):
        for right in (0, 1):
            row, column = low[0] + below, low[1] + right
            share = (1 - np.abs(places[0] - row)) * (1 - np.abs(places[1] - column))
            inside = known & (row >= 0) & (row < height) & (column >= 0) & (column < width)
            taken = x[batch, field, :, row * inside, column * inside]  # channels come last
            value = np.where(inside[..., None], taken, nothing) * share[..., None]
            total = total + np.moveaxis(value, -1, 2)
    return np.asarray(total.astype(x.dtype))


def _spec(name: str, modulated: bool) -> OpSpec:
    return OpSpec(
        name,
        partial(_draw, modulated=modulated),
        partial(_deformable, modulated=modulated),
        ranks(4),
        dtypes=("float32",),
        # A sum of many products rounds its partial sums too, and every term is a sum of four.
        roundings=5,
        products=True,
        nan_blind=True,
    )


register(
    _spec("_contrib_DeformableConvolution", modulated=False),
    _spec("_contrib_ModulatedDeformableConvolution", modulated=True),
)
