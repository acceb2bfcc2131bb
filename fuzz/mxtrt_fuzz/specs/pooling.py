"""Pooling in every convention that MXNet can run."""

from __future__ import annotations

from math import ceil
from typing import Any

import numpy as np
from hypothesis import strategies as st

from mxtrt_fuzz.graphs import Shape
from mxtrt_fuzz.specs.base import (
    Application,
    Attributes,
    Draw,
    OpSpec,
    maybe,
    ranks,
    register,
    sizes,
)
from mxtrt_fuzz.specs.nn import strided_windows
from mxtrt_fuzz.values import Array

__all__ = ["draw_pooling", "pooling"]

_LAST = {3: "NWC", 4: "NHWC", 5: "NDHWC"}
_FIRST = {3: "NCW", 4: "NCHW", 5: "NCDHW"}


def _outputs(size: int, kernel: int, stride: int, pad: int, full: bool) -> int:
    steps = (size + 2 * pad - kernel) / stride
    return (ceil(steps) if full else int(steps)) + 1


def draw_pooling(draw: Draw, shape: Shape) -> Application:
    """A pooling of an input of some shape."""
    rank = len(shape) - 2
    kind = draw(st.sampled_from(["max", "avg", "sum", "lp"]))
    attrs: dict[str, Any] = {"pool_type": kind}
    if kind == "lp":
        attrs["p_value"] = draw(st.sampled_from([1, 2]))
    last = draw(st.integers(0, 5)) == 0 and kind != "lp"  # MXNet has no lp kernel for it
    if last or draw(st.booleans()):
        attrs["layout"] = (_LAST if last else _FIRST)[len(shape)]
    spatial = shape[1:-1] if last else shape[2:]
    if draw(st.integers(0, 3)) == 0:
        attrs["global_pool"] = True
        if draw(st.booleans()):
            attrs["kernel"] = sizes(draw, rank, 1, 3)
        return Application(attrs)
    kernel, strides, pads = [], [], []
    full = draw(st.booleans())
    for size in spatial:
        k = draw(st.integers(1, min(size, 4)))
        s, p = draw(st.integers(1, 3)), draw(st.integers(0, k - 1))
        if (_outputs(size, k, s, p, full) - 1) * s - p >= size:  # a window of padding only
            s, p = 1, 0
        kernel.append(k)
        strides.append(s)
        pads.append(p)
    attrs["kernel"] = tuple(kernel)
    if any(p > 0 for p in pads) or draw(st.booleans()):
        attrs["pad"] = tuple(pads)
    if any(s > 1 for s in strides) or draw(st.booleans()):
        attrs["stride"] = tuple(strides)
    if full or draw(st.booleans()):
        attrs["pooling_convention"] = "full" if full else "valid"
    attrs |= maybe(draw, count_include_pad=st.booleans())
    return Application(attrs)


def pooling(attrs: Attributes, x: Array) -> Array:
    """A pooling of any kind and layout."""
    if attrs.get("layout", "NC") in _LAST.values():
        return np.moveaxis(_channel_first(attrs, np.moveaxis(x, -1, 1)), 1, -1)
    return _channel_first(attrs, x)


def _channel_first(attrs: Attributes, x: Array) -> Array:
    kind = attrs.get("pool_type", "max")
    rank = x.ndim - 2
    axes = tuple(range(-rank, 0))
    power = attrs.get("p_value", 1) if kind == "lp" else 1
    if power == 2:
        x = x**2
    if attrs.get("global_pool", False):
        functions: dict[str, Any] = {"max": np.max, "avg": np.mean}
        reduce = functions.get(kind, np.sum)
        pooled = reduce(x, axis=axes, keepdims=True)
        return np.sqrt(pooled) if power == 2 else pooled
    kernel = attrs.integers("kernel")
    stride = attrs.integers("stride") or (1,) * rank
    pad = attrs.integers("pad") or (0,) * rank
    full = attrs.get("pooling_convention", "valid") == "full"
    widths = []
    lengths = np.ones(())
    for size, k, s, p in zip(x.shape[2:], kernel, stride, pad, strict=True):
        count = _outputs(size, k, s, p, full)
        widths.append((p, max((count - 1) * s + k - size - p, 0)))
        starts = np.arange(count) * s - p
        # An average is divided by the window's length cut at the declared padding (pool.h).
        lengths = lengths[..., None] * (np.minimum(starts + k, size + p) - starts)
    shape = [(0, 0), (0, 0), *widths]
    outside = -np.inf if kind == "max" else 0
    windows = strided_windows(np.pad(x, shape, constant_values=outside), kernel, stride)
    counts = windows.shape[2 : 2 + rank]
    # Padding beyond the last window is never read; "valid" leaves a remainder out.
    if kind == "max":
        return windows.max(axes)
    total = windows.sum(axes)
    if kind == "avg":
        if not attrs.get("count_include_pad", True):
            inside = np.pad(np.ones(x.shape[2:]), widths)
            lengths = strided_windows(inside, kernel, stride).sum(axes)
        return total / lengths[tuple(slice(n) for n in counts)].astype(x.dtype)
    return np.sqrt(total) if power == 2 else total


register(
    OpSpec("Pooling", draw_pooling, pooling, ranks(3, 4, 5), roundings=2, nan_blind=True),
)
