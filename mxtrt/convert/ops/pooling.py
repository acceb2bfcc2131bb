"""Converters of Pooling and of adaptive pooling.

MXNet sums a window over the elements that exist, and divides an average by the window's
length cut at ``size + pad`` (``nn/pool.h``).  A window of the convention ``full`` that hangs
over the far edge gets explicit padding, so that no ``ceil_mode`` is needed: runtimes do not
agree on its divisor.  The convention ``same`` stays in MXNet, whose shape inference fails on
it unless ``pad`` has three values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np

from mxtrt.convert.ops.nn import CHANNEL_FIRST, spatial
from mxtrt.convert.ops.registry import Call, converter
from mxtrt.convert.recipes import averages, windows_of
from mxtrt.errors import Unsupported

_CHANNEL_LAST = {1: "NWC", 2: "NHWC", 3: "NDHWC"}


@dataclass(frozen=True, slots=True)
class _Axis:
    """The windows of one spatial axis."""

    size: int
    kernel: int
    stride: int
    pad: int
    outputs: int

    @property
    def pad_end(self) -> int:
        """Padding after the data that lets the last window fit."""
        return max(self.pad, (self.outputs - 1) * self.stride + self.kernel - self.size - self.pad)

    @property
    def hangs_over(self) -> bool:
        """Whether the last window reaches beyond the declared padding."""
        return self.pad_end > self.pad

    @property
    def reads_data(self) -> bool:
        """Whether every window holds at least one element of the data."""
        last = (self.outputs - 1) * self.stride - self.pad
        return self.kernel > self.pad and last < self.size

    def lengths(self) -> list[int]:
        """Length of every window, cut at the declared padding: the divisor of an average."""
        starts = [i * self.stride - self.pad for i in range(self.outputs)]
        return [min(start + self.kernel, self.size + self.pad) - start for start in starts]


@converter("Pooling", outputs=1)
def pooling(call: Call) -> None:
    """``MaxPool``, ``AveragePool`` or a global reduction; sum and lp are built from averages."""
    call.require_floats()
    kind = call.text("pool_type", "max")
    call.require(kind in ("max", "avg", "sum", "lp"), f"pool_type={kind} is not known")
    power = call.integer("p_value") if kind == "lp" else 1
    call.require(power in (1, 2), f"p_value={power} is neither 1 nor 2")
    rank = call.rank() - 2
    call.require(rank in CHANNEL_FIRST, f"pooling on rank {call.rank()}")
    layout = call.text("layout", CHANNEL_FIRST[rank])
    last = layout == _CHANNEL_LAST[rank]
    call.require(last or layout == CHANNEL_FIRST[rank], f"layout {layout} on rank {call.rank()}")

    data, shape, out_shape = call.input(), call.shape(), call.out_shape()
    if last:
        data = call.emit("Transpose", [data], perm=[0, rank + 1, *range(1, rank + 1)])
        shape, out_shape = (s[:1] + s[-1:] + s[1:-1] for s in (shape, out_shape))
    output = None if last else call.output()
    if power == 2:
        data = call.emit("Mul", [data, data])
    inner = None if power == 2 else output
    if call.flag("global_pool"):
        given = len(call.integers("kernel", ()))
        call.require(given in (0, rank), f"a kernel of {given} axes on rank {call.rank()}")
        pooled = _global(call, kind, data, rank, inner)
    else:
        pooled = _windows(call, kind, data, _axes(call, shape[2:], out_shape[2:]), inner)
    if power == 2:
        pooled = call.emit("Sqrt", [pooled], output=output)
    if last:
        back = [0, *range(2, rank + 2), 1]
        call.emit("Transpose", [pooled], output=call.output(), perm=back)


def _axes(call: Call, sizes: Sequence[int], outputs: Sequence[int]) -> list[_Axis]:
    rank = len(sizes)
    convention = call.text("pooling_convention", "valid")
    if convention not in ("valid", "full"):
        raise Unsupported(f"pooling_convention={convention} is neither valid nor full")
    kernel = call.integers("kernel", ())
    call.require(len(kernel) == rank, f"a kernel of {len(kernel)} axes on rank {call.rank()}")
    strides, pads = spatial(call, "stride", 1, rank), spatial(call, "pad", 0, rank)
    axes = [_Axis(*values) for values in zip(sizes, kernel, strides, pads, outputs, strict=True)]
    call.require(all(axis.reads_data for axis in axes), "a window that holds only padding")
    return axes


def _global(call: Call, kind: str, data: str, rank: int, output: str | None) -> str:
    """One value per channel; kernel, stride, pad and convention are ignored."""
    if kind in ("sum", "lp"):
        axes = call.indices(range(2, rank + 2))
        return call.emit("ReduceSum", [data, axes], output=output, keepdims=1)
    op_type = {"max": "GlobalMaxPool", "avg": "GlobalAveragePool"}[kind]
    return call.emit(op_type, [data], output=output)


def _windows(call: Call, kind: str, data: str, axes: Sequence[_Axis], output: str | None) -> str:
    geometry: dict[str, Any] = {
        "kernel_shape": [axis.kernel for axis in axes],
        "strides": [axis.stride for axis in axes],
        "pads": [axis.pad for axis in axes] + [axis.pad_end for axis in axes],
    }
    if kind == "max":
        return call.emit("MaxPool", [data], output=output, **geometry)
    padded = any(axis.pad for axis in axes)
    counts_pad = call.flag("count_include_pad", True) and padded
    overhang = any(axis.hangs_over for axis in axes)
    if kind == "avg" and not (counts_pad and overhang):
        # Without declared padding, not counting any is the same as cutting at the edge.
        geometry["count_include_pad"] = int(counts_pad)
        return call.emit("AveragePool", [data], output=output, **geometry)
    mean = call.emit("AveragePool", [data], count_include_pad=1, **geometry)
    volume = prod(axis.kernel for axis in axes)
    if kind == "avg":
        divisors = np.ones((1, 1, *(1 for _ in axes)))
        for i, axis in enumerate(axes):
            divisors = divisors * np.reshape(axis.lengths(), [-1] + [1] * (len(axes) - 1 - i))
        factor = call.constant(volume / divisors)
    else:
        factor = call.constant(volume)
    return call.emit("Mul", [mean, factor], output=output)


@converter("_contrib_AdaptiveAvgPooling2D", outputs=1)
def adaptive_average_pooling(call: Call) -> None:
    """``AveragePool`` where all windows are alike, else two ``MatMul`` with rows of averages.

    The windows of n outputs on an axis of a given size start at ``floor(i * size / n)`` and end
    before ``ceil((i + 1) * size / n)``; they may overlap.  A kernel is for one size; rows of
    averages can be computed for any.
    """
    call.require_floats()
    call.require(call.rank() == 4, f"adaptive pooling on rank {call.rank()}, not 4")
    sizes, outputs = call.shape()[2:], call.out_shape()[2:]
    if outputs == (1, 1):
        call.emit("GlobalAveragePool", [call.input()], output=call.output())
        return
    windows = [windows_of(*axis) for axis in zip(sizes, outputs, strict=True)]
    regular = [_regular(axis) for axis in windows]
    if all(regular) and not call.varying:
        kernel, strides = zip(*(pair for pair in regular if pair), strict=True)
        call.emit(
            "AveragePool",
            [call.input()],
            output=call.output(),
            kernel_shape=kernel,
            strides=strides,
        )
        return
    # Several times faster than slices; a number that is not finite spreads along its axes.
    down, across = (averages(*axis) for axis in zip(sizes, outputs, strict=True))
    rows = call.emit("MatMul", [call.input(), call.constant(across.T)])
    call.emit("MatMul", [call.constant(down), rows], output=call.output())


def _regular(windows: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
    """Length and stride of windows that one pooling has, None for others."""
    lengths = {end - begin for begin, end in windows}
    strides = {later[0] - begin[0] for begin, later in pairwise(windows)} or {1}
    if len(lengths) > 1 or len(strides) > 1 or 0 in strides:
        return None
    return lengths.pop(), strides.pop()
