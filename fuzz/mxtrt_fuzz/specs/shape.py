"""Operators that move data: shapes, axes, slices, joins and padding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
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
    any_rank,
    like,
    maybe,
    ranks,
    register,
)
from mxtrt_fuzz.values import Array


def _axis(draw: Draw, rank: int) -> int:
    return draw(st.integers(-rank, rank - 1))


# -- joins and splits ------------------------------------------------------------------------


def _draw_concat(draw: Draw, shape: Shape) -> Application:
    rank = len(shape)
    attrs: dict[str, Any] = {}
    if rank < 2 or draw(st.booleans()):
        attrs["dim"] = _axis(draw, rank)
    axis = attrs.get("dim", 1) % rank

    def fits(other: Shape) -> bool:
        return len(other) == rank and all(
            i == axis or n == m for i, (n, m) in enumerate(zip(shape, other, strict=True))
        )

    operands = []
    for _ in range(draw(st.integers(0, 2))):
        size = draw(st.integers(1, 4))
        other = tuple(size if i == axis else n for i, n in enumerate(shape))
        operands.append(Operand(other, fits=fits))
    return Application({"num_args": len(operands) + 1, **attrs}, tuple(operands))


def _draw_stack(draw: Draw, shape: Shape) -> Application:
    others = draw(st.integers(0, 2))
    attrs = maybe(draw, axis=st.integers(-len(shape) - 1, len(shape)))
    return Application({"num_args": others + 1, **attrs}, (Operand(shape),) * others)


def _draw_split(draw: Draw, shape: Shape) -> Application:
    rank = len(shape)
    attrs: dict[str, Any] = {}
    if rank < 2 or draw(st.booleans()):
        attrs["axis"] = _axis(draw, rank)
    size = shape[attrs.get("axis", 1)]
    attrs["num_outputs"] = draw(st.sampled_from([n for n in range(1, 5) if size % n == 0]))
    # MXNet has no tensor of rank 0 to give for one of rank 1.
    if rank > 1 and attrs["num_outputs"] == size and draw(st.booleans()):
        attrs["squeeze_axis"] = True
    return Application(attrs)


def _split(attrs: Attributes, x: Array) -> tuple[Array, ...]:
    axis = attrs.get("axis", 1)
    parts = np.split(x, attrs["num_outputs"], axis)
    if attrs.get("squeeze_axis", False):
        parts = [part.squeeze(axis) for part in parts]
    return tuple(parts)


# -- shapes and axes -------------------------------------------------------------------------


def _draw_reshape(draw: Draw, shape: Shape) -> Application:
    """A target in numbers, or axis by axis in MXNet's codes."""
    if draw(st.booleans()):
        target: list[int] = []
        left = prod(shape)
        while left > 1 and len(target) < 4:
            size = draw(st.sampled_from([n for n in range(1, left + 1) if left % n == 0][-6:]))
            target.append(size)
            left //= size
        target.append(left)
        if draw(st.booleans()):
            target[draw(st.integers(0, len(target) - 1))] = -1
        return Application({"shape": tuple(target)})
    reverse = draw(st.integers(0, 3)) == 3
    codes = _codes(draw, shape[::-1] if reverse else shape, splits=not reverse)
    return Application(
        {"shape": tuple(codes[::-1]), "reverse": True} if reverse else {"shape": tuple(codes)}
    )


def _codes(draw: Draw, shape: Shape, splits: bool) -> list[int]:
    """One code for every axis, or pair of axes (-3), or for all that are left (-2)."""
    codes: list[int] = []
    axis, kinds = 0, ["copy", "number", "merge", "rest", "infer"] + ["split"] * splits
    while axis < len(shape):
        kind, size = draw(st.sampled_from(kinds)), shape[axis]
        axis += 1
        if kind == "rest":
            codes.append(-2)
            break
        if kind == "merge" and axis < len(shape):
            codes.append(-3)
            axis += 1
        elif kind == "split":
            factor = draw(st.sampled_from([n for n in range(1, size + 1) if size % n == 0]))
            codes += [-4, factor, size // factor]
            if "infer" in kinds and draw(st.booleans()):  # MXNet wants one -1 at the most
                codes[-1] = -1
            # MXNet looks for -1 at its place among the codes, of which -4 is three for two axes:
            # after one it writes beside the shape, now and then beyond its memory.
            kinds = [other for other in kinds if other != "infer"]
        elif kind == "infer":
            codes.append(-1)
            kinds.remove("infer")
        else:
            codes.append(size if kind == "number" else 0)
    return codes


def _reshape(attrs: Attributes, x: Array) -> Array:
    codes = attrs.integers("shape")
    if attrs.get("reverse", False):
        return x.reshape(_target(codes[::-1], x.shape[::-1])[::-1])
    return x.reshape(_target(codes, x.shape))


def _target(codes: Sequence[int], shape: Shape) -> list[int]:
    """The shape that codes stand for; every code reads an axis (``InferReshapeShape``)."""
    target: list[int] = []
    axis, rest = 0, iter(codes)
    for code in rest:
        if code == -2:
            target += shape[axis:]
            axis = len(shape)
            continue
        if code == -4:
            first, second = next(rest), next(rest)
            target += [first, shape[axis] // first if second == -1 else second]
        elif code == -3:
            target.append(shape[axis] * shape[axis + 1])
            axis += 1
        else:
            target.append(shape[axis] if code == 0 else code)
        axis += 1
    return target


def _draw_transpose(draw: Draw, shape: Shape) -> Application:
    return Application(maybe(draw, axes=st.permutations(range(len(shape))).map(tuple)))


def _draw_swap(draw: Draw, shape: Shape) -> Application:
    axes = st.integers(0, len(shape) - 1)
    return Application({"dim1": draw(axes), "dim2": draw(axes)})


def _draw_expand(draw: Draw, shape: Shape) -> Application:
    return Application({"axis": draw(st.integers(-len(shape) - 1, len(shape)))})


def _draw_squeeze(draw: Draw, shape: Shape) -> Application:
    single = [i for i, n in enumerate(shape) if n == 1]
    if not single or draw(st.booleans()):
        return Application()
    axes = draw(st.lists(st.sampled_from(single), min_size=1, unique=True))
    shift = len(shape) if draw(st.booleans()) else 0
    return Application({"axis": tuple(axis - shift for axis in axes)})


def _squeeze(attrs: Attributes, x: Array) -> Array:
    squeezed = x.squeeze(attrs.integers("axis") or None)
    return squeezed if squeezed.ndim else squeezed.reshape(1)


# -- slices, padding, up-sampling ------------------------------------------------------------


def _draw_slice_axis(draw: Draw, shape: Shape) -> Application:
    axis = _axis(draw, len(shape))
    size = shape[axis]
    begin = draw(st.integers(0, size - 1))
    end: int | None = draw(st.integers(begin + 1, size))
    if end == size and draw(st.booleans()):
        end = None
    elif end is not None and end < size and draw(st.booleans()):
        end -= size
    if draw(st.booleans()):
        begin -= size
    return Application({"axis": axis, "begin": begin, "end": end})


def _slice_axis(attrs: Attributes, x: Array) -> Array:
    axis = attrs["axis"] % x.ndim
    picked = slice(attrs["begin"], attrs.get("end", None))
    return x[(slice(None),) * axis + (picked,)]


def _draw_slice(draw: Draw, shape: Shape) -> Application:
    begins: list[int | None] = []
    ends: list[int | None] = []
    steps: list[int | None] = []
    for size in shape[: draw(st.integers(1, len(shape)))]:
        step = draw(st.sampled_from([None, 1, 2, -1, -2]))
        first = draw(st.integers(0, size - 1))
        last = draw(st.integers(first + 1, size))
        forward = step is None or step > 0
        begin: int | None = first if forward else last - 1
        end: int | None = last if forward else first - 1
        if end == (size if forward else -1):
            end = None
        if begin == (0 if forward else size - 1) and draw(st.booleans()):
            begin = None
        elif begin is not None and draw(st.booleans()):
            begin -= size
        begins.append(begin)
        ends.append(end)
        steps.append(step)
    attrs = {"begin": tuple(begins), "end": tuple(ends)}
    if any(step not in (None, 1) for step in steps) or draw(st.booleans()):
        attrs["step"] = tuple(steps)
    return Application(attrs)


def _slice(attrs: Attributes, x: Array) -> Array:
    begin, end = attrs["begin"], attrs["end"]
    step = attrs.get("step", (None,) * len(begin))
    return x[tuple(slice(*limits) for limits in zip(begin, end, step, strict=True))]


def _draw_pad(draw: Draw, shape: Shape) -> Application:
    mode = draw(st.sampled_from(["constant", "edge", "reflect"]))
    widths = [0, 0, 0, 0]
    for size in shape[2:]:
        most = size - 1 if mode == "reflect" else 3
        # The engine's rule is one for all axes: no reflection wider than the smallest.
        if mode == "reflect":
            most = min(most, min(shape[2:]) - 1)
        widths += draw(st.lists(st.integers(0, most), min_size=2, max_size=2))
    attrs: dict[str, Any] = {"mode": mode, "pad_width": tuple(widths)}
    if mode == "constant":
        attrs |= maybe(draw, constant_value=st.sampled_from([1.5, -0.5, 0.0]))
    return Application(attrs)


def _pad(attrs: Attributes, x: Array) -> Array:
    widths = np.reshape(attrs["pad_width"], (-1, 2)).tolist()
    if attrs["mode"] == "constant":
        return np.pad(x, widths, constant_values=attrs.get("constant_value", 0.0))
    return np.pad(x, widths, attrs["mode"])


def _flatten(attrs: Attributes, x: Array) -> Array:
    return x.reshape(x.shape[0], prod(x.shape[1:]))


def _spec(
    names: str,
    apply: Callable[[Draw, Shape], Application],
    reference: Callable[..., Array | tuple[Array, ...]],
    accepts: Callable[[Shape], bool] = any_rank,
) -> list[OpSpec]:
    return [OpSpec(name, apply, reference, accepts, roundings=0) for name in names.split()]


register(
    *_spec("Concat concat", _draw_concat, lambda a, *xs: np.concatenate(xs, a.get("dim", 1))),
    *_spec("stack", _draw_stack, lambda a, *xs: np.stack(xs, a.get("axis", 0))),
    *_spec("SliceChannel split", _draw_split, _split),
    *_spec("Flatten flatten", like, _flatten),
    *_spec("Reshape reshape", _draw_reshape, _reshape),
    *_spec("transpose", _draw_transpose, lambda a, x: x.transpose(a.integers("axes") or None)),
    *_spec("SwapAxis swapaxes", _draw_swap, lambda a, x: x.swapaxes(a["dim1"], a["dim2"])),
    *_spec("expand_dims", _draw_expand, lambda a, x: np.expand_dims(x, a["axis"])),
    *_spec("squeeze", _draw_squeeze, _squeeze),
    *_spec("slice_axis", _draw_slice_axis, _slice_axis),
    *_spec("slice crop", _draw_slice, _slice),
    *_spec("Pad pad", _draw_pad, _pad, ranks(4, 5)),
)
