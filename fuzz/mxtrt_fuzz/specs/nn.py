"""Layers with weights, and Dropout."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from hypothesis import strategies as st

from mxtrt_fuzz.graphs import Shape
from mxtrt_fuzz.specs.base import (
    WIDE_FLOATS,
    Application,
    Attributes,
    Draw,
    Operand,
    OpSpec,
    any_rank,
    maybe,
    ranks,
    register,
    sizes,
)
from mxtrt_fuzz.specs.indexing import take
from mxtrt_fuzz.values import Array

__all__ = ["convolution", "draw_convolution", "strided_windows"]


def strided_windows(x: Array, kernel: Shape, stride: Shape, dilate: Shape | None = None) -> Array:
    """Windows over the last axes: ``(..., *positions, *kernel)``."""
    rank = len(kernel)
    dilate = dilate or (1,) * rank
    extents = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilate, strict=True))
    view: Any = np.lib.stride_tricks.sliding_window_view
    views = view(x, extents, tuple(range(-rank, 0)))
    steps = tuple(slice(None, None, s) for s in stride)
    holes = tuple(slice(None, None, d) for d in dilate)
    place = (..., *steps, *holes)
    return views[place]


def _convolve(
    x: Array, weight: Array, groups: int, stride: Shape, dilate: Shape, pads: list[tuple[int, int]]
) -> Array:
    kernel = weight.shape[2:]
    padded = np.pad(x, [(0, 0), (0, 0), *pads])
    windows = strided_windows(padded, kernel, stride, dilate)  # n, c, *out, *k
    rank = len(kernel)
    n, out = x.shape[0], windows.shape[2 : 2 + rank]
    split = windows.reshape(n, groups, x.shape[1] // groups, *out, *kernel)
    split = np.moveaxis(split, 2, 2 + rank)  # n, g, *out, c, *k
    rows = split.reshape(n, groups, prod(out), -1)
    columns = weight.reshape(groups, weight.shape[0] // groups, -1).swapaxes(1, 2)
    product = rows @ columns  # n, g, prod(out), f
    return product.swapaxes(2, 3).reshape(n, weight.shape[0], *out)


def _per_axis(attrs: Attributes, key: str, default: int, rank: int) -> tuple[int, ...]:
    return attrs.integers(key) or (default,) * rank


def _with_bias(y: Array, bias: tuple[Array, ...]) -> Array:
    return y + bias[0].reshape(-1, *(1,) * (y.ndim - 2)) if bias else y


def convolution(attrs: Attributes, x: Array, weight: Array, *bias: Array) -> Array:
    """A convolution of any number of axes."""
    rank = x.ndim - 2
    pads = [(p, p) for p in _per_axis(attrs, "pad", 0, rank)]
    stride, dilate = (_per_axis(attrs, key, 1, rank) for key in ("stride", "dilate"))
    groups = attrs.get("num_group", 1)
    return _with_bias(_convolve(x, weight, groups, stride, dilate, pads), bias)


def _deconvolution(attrs: Attributes, x: Array, weight: Array, *bias: Array) -> Array:
    """A convolution of the data with zeros between them by the mirrored weights."""
    rank, groups = x.ndim - 2, attrs.get("num_group", 1)
    stride, dilate = (_per_axis(attrs, key, 1, rank) for key in ("stride", "dilate"))
    pad, adj = (_per_axis(attrs, key, 0, rank) for key in ("pad", "adj"))
    kernel = weight.shape[2:]
    target = attrs.integers("target_shape")
    if any(target):
        adj = tuple(
            (s * (size - 1) + 1 + (k - 1) * d - wanted) % 2
            for s, size, k, d, wanted in zip(
                stride, x.shape[2:], kernel, dilate, target, strict=True
            )
        )
    spaced_sizes = [(size - 1) * s + 1 for size, s in zip(x.shape[2:], stride, strict=True)]
    spaced = np.zeros((*x.shape[:2], *spaced_sizes), x.dtype)
    place = (..., *(slice(None, None, s) for s in stride))
    spaced[place] = x
    pads = []
    for axis, (k, d, p, a) in enumerate(zip(kernel, dilate, pad, adj, strict=True)):
        before, after = (k - 1) * d - p, (k - 1) * d - p + a
        crop = tuple(max(-side, 0) for side in (before, after))
        spaced = np.moveaxis(spaced, axis + 2, 0)
        spaced = np.moveaxis(spaced[crop[0] : len(spaced) - crop[1]], 0, axis + 2)
        pads.append((max(before, 0), max(after, 0)))
    # (channels, filters / groups, *k) becomes (filters, channels / groups, *k), mirrored.
    split = weight.reshape(groups, x.shape[1] // groups, *weight.shape[1:])
    mirrored = np.flip(split.swapaxes(1, 2), tuple(range(3, 3 + rank)))
    turned = mirrored.reshape(-1, x.shape[1] // groups, *kernel)
    return _with_bias(_convolve(spaced, turned, groups, (1,) * rank, dilate, pads), bias)


def _groups(draw: Draw, channels: int) -> int:
    return draw(st.sampled_from([g for g in (1, 2, 3, channels) if channels % g == 0]))


def draw_convolution(draw: Draw, shape: Shape) -> Application:
    """A convolution of an input of some shape."""
    rank = len(shape) - 2
    # On one axis a grouped convolution before a softmax ends MXNet (in its oneDNN layouts).
    groups = _groups(draw, shape[1]) if rank > 1 else 1
    filters = groups * draw(st.integers(1, 4))
    attrs: dict[str, Any] = {"num_filter": filters}
    kernel, pads, dilates = [], [], []
    for size in shape[2:]:
        dilate = draw(st.sampled_from([1, 1, 2]))
        pad = draw(st.integers(0, 2))
        most = (size + 2 * pad - 1) // dilate + 1
        kernel.append(draw(st.integers(1, min(3, most))))
        pads.append(pad)
        dilates.append(dilate)
    attrs["kernel"] = tuple(kernel)
    if any(pads) or draw(st.booleans()):
        attrs["pad"] = tuple(pads)
    if any(d > 1 for d in dilates):
        attrs["dilate"] = tuple(dilates)
    if draw(st.booleans()):
        attrs["stride"] = sizes(draw, rank, 1, 3)
    if groups > 1 or draw(st.booleans()):
        attrs["num_group"] = groups
    attrs |= maybe(draw, no_bias=st.booleans())
    weight = Operand((filters, shape[1] // groups, *kernel), "weight", -1, 1)
    bias = () if attrs.get("no_bias") else (Operand((filters,), "weight"),)
    return Application(attrs, (weight, *bias))


def _draw_deconvolution(draw: Draw, shape: Shape) -> Application:
    rank = len(shape) - 2
    groups = _groups(draw, shape[1])
    filters = groups * draw(st.integers(1, 3))
    kernel, stride = sizes(draw, rank, 1, 4), sizes(draw, rank, 1, 3)
    # oneDNN has no dilated deconvolution in three axes, and fails on much padding.
    dilate = sizes(draw, rank, 1, 2 if rank < 3 else 1)
    attrs: dict[str, Any] = {"kernel": kernel, "stride": stride, "num_filter": filters}
    attrs |= {"dilate": dilate, "num_group": groups}
    full = [
        s * (size - 1) + 1 + (k - 1) * d
        for s, size, k, d in zip(stride, shape[2:], kernel, dilate, strict=True)
    ]
    pad = tuple(
        draw(st.integers(0, min((k - 1) // 2, (f - 1) // 2)))
        for k, f in zip(kernel, full, strict=True)
    )
    attrs["pad"] = pad
    choice = draw(st.sampled_from(["none", "adj", "target"]))
    if choice == "adj":
        attrs["adj"] = tuple(draw(st.integers(0, s - 1)) for s in stride)
    elif choice == "target":
        # What the padding gives, or one element more where an adjustment can give it back.
        attrs["target_shape"] = tuple(
            f - 2 * p + (draw(st.integers(0, 1)) if p and s > 1 else 0)
            for f, p, s in zip(full, pad, stride, strict=True)
        )
    attrs |= maybe(draw, no_bias=st.booleans())
    weight = Operand((shape[1], filters // groups, *kernel), "weight", -1, 1)
    bias = () if attrs.get("no_bias", True) else (Operand((filters,), "weight"),)
    return Application(attrs, (weight, *bias))


def _fully_connected(attrs: Attributes, x: Array, weight: Array, *bias: Array) -> Array:
    if attrs.get("flatten", True):
        x = x.reshape(x.shape[0], -1)
    y = x @ weight.T
    return y + bias[0] if bias else y


def _draw_fully_connected(draw: Draw, shape: Shape) -> Application:
    attrs = {"num_hidden": draw(st.integers(1, 8))}
    attrs |= maybe(draw, no_bias=st.booleans(), flatten=st.booleans())
    inputs = prod(shape[1:]) if attrs.get("flatten", True) else shape[-1]
    hidden = attrs["num_hidden"]
    weight = Operand((hidden, inputs), "weight", -1, 1)
    bias = () if attrs.get("no_bias") else (Operand((hidden,), "weight"),)
    return Application(attrs, (weight, *bias))


def _draw_embedding(draw: Draw, shape: Shape) -> Application:
    rows, columns = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    attrs = {"input_dim": rows, "output_dim": columns}
    return Application(attrs, (Operand((rows, columns), "weight"),))


def _draw_dropout(draw: Draw, shape: Shape) -> Application:
    return Application(maybe(draw, p=st.sampled_from([0.1, 0.9]), mode=st.just("training")))


# A sum of many products rounds its partial sums too: more than one rounding of each product.
_SUMS = 3.0

register(
    OpSpec(
        "Convolution",
        draw_convolution,
        convolution,
        ranks(3, 4, 5),
        dtypes=("float32",),
        roundings=_SUMS,
        products=True,
        nan_blind=True,
    ),
    OpSpec(
        "Deconvolution",
        _draw_deconvolution,
        _deconvolution,
        ranks(3, 4, 5),
        dtypes=("float32",),
        roundings=_SUMS,
        products=True,
        nan_blind=True,
    ),
    OpSpec(
        "FullyConnected",
        _draw_fully_connected,
        _fully_connected,
        any_rank,
        dtypes=WIDE_FLOATS,
        roundings=_SUMS,
        products=True,
    ),
    *(
        OpSpec(
            name,
            _draw_embedding,
            lambda attrs, x, weight: take(attrs, weight, x),
            lambda shape: len(shape) < 6,
            roundings=0,
            jumps=True,
            nan_blind=True,
            hybrid=False,
        )
        for name in ("Embedding", "_npx_embedding")
    ),
    OpSpec("Dropout", _draw_dropout, lambda attrs, x: x, roundings=0),
)
