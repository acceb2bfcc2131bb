"""Operators that take, drop or replace a range of an axis."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from mxtrt_fuzz.graphs import Shape
from mxtrt_fuzz.specs.base import (
    Application,
    Attributes,
    Draw,
    Operand,
    maybe,
    movers,
    one_axis,
    ranks,
    register,
    sizes,
)
from mxtrt_fuzz.values import Array


def _draw_split(draw: Draw, shape: Shape) -> Application:
    rank = len(shape)
    attrs: dict[str, Any] = {}
    if rank < 2 or draw(st.booleans()):
        attrs["axis"] = one_axis(draw, rank)
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


def _draw_slice_axis(draw: Draw, shape: Shape) -> Application:
    axis = one_axis(draw, len(shape))
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


def _draw_split_v2(draw: Draw, shape: Shape) -> Application:
    rank = len(shape)
    attrs: dict[str, Any] = {"indices": ()}
    if rank < 2 or draw(st.booleans()):
        attrs["axis"] = one_axis(draw, rank)
    size = shape[attrs.get("axis", 1)]
    if draw(st.booleans()):
        attrs["sections"] = draw(st.integers(1, min(size, 4)))
    else:
        places = draw(st.sets(st.integers(0, size - 1), max_size=3))
        attrs["indices"] = tuple(sorted(places | {0}))
    parts = attrs.get("sections") or len(attrs["indices"])
    if rank > 1 and parts == size and draw(st.booleans()):
        attrs["squeeze_axis"] = True
    return Application(attrs)


def _split_v2(attrs: Attributes, x: Array) -> tuple[Array, ...]:
    axis, begins = attrs.get("axis", 1), attrs.integers("indices")
    if attrs.get("sections", 0):
        parts = np.array_split(x, attrs["sections"], axis)
    else:
        parts = np.split(x, begins, axis)[1:]
    if attrs.get("squeeze_axis", False):
        parts = [part.squeeze(axis) for part in parts]
    return tuple(parts)


def _draw_slice_like(draw: Draw, shape: Shape) -> Application:
    rank = len(shape)
    target = [draw(st.integers(1, size)) for size in shape]
    if draw(st.booleans()):
        return Application({}, (Operand(tuple(target)),))
    axes = sorted(draw(st.sets(st.integers(0, rank - 1), min_size=1)))
    other = [size if axis in axes else draw(st.integers(1, 3)) for axis, size in enumerate(target)]
    shift = rank if draw(st.booleans()) else 0
    return Application({"axes": tuple(axis - shift for axis in axes)}, (Operand(tuple(other)),))


def _slice_like(attrs: Attributes, x: Array, like: Array) -> Array:
    axes = [axis % x.ndim for axis in attrs.integers("axes")] or range(x.ndim)
    return x[tuple(slice(like.shape[i] if i in axes else None) for i in range(x.ndim))]


def _draw_crop(draw: Draw, shape: Shape) -> Application:
    height, width = (draw(st.integers(1, size)) for size in shape[2:])
    attrs: dict[str, Any] = {"num_args": draw(st.integers(1, 2))}
    if draw(st.booleans()):
        attrs["center_crop"] = True
    elif draw(st.booleans()):
        spaces = shape[2] - height, shape[3] - width
        attrs["offset"] = tuple(draw(st.integers(0, space)) for space in spaces)
    if attrs["num_args"] == 2:
        return Application(attrs, (Operand((*sizes(draw, 2, 1, 2), height, width)),))
    return Application({**attrs, "h_w": (height, width)})


def _crop(attrs: Attributes, x: Array, *like: Array) -> Array:
    height, width = like[0].shape[2:] if like else attrs["h_w"]
    top, left = attrs.integers("offset", (0, 0))
    if attrs.get("center_crop", False):
        top, left = (x.shape[2] - height) // 2, (x.shape[3] - width) // 2
    return x[:, :, top : top + height, left : left + width]


def _draw_reverse(draw: Draw, shape: Shape) -> Application:
    axes = draw(st.sets(st.integers(0, len(shape) - 1), min_size=1))
    return Application({"axis": tuple(sorted(axes))})


def _reverse(attrs: Attributes, x: Array) -> Array:
    return np.flip(x, attrs.integers("axis"))


def _draw_assign(draw: Draw, shape: Shape) -> Application:
    application = _draw_slice(draw, shape)
    sliced = _slice(
        Attributes([(k, str(v)) for k, v in application.attrs.items()]), np.empty(shape)
    )
    return Application(application.attrs, (Operand(sliced.shape),))


def _assign(attrs: Attributes, x: Array, value: Any) -> Array:
    result = x.copy()
    begin, end = attrs["begin"], attrs["end"]
    step = attrs.get("step", (None,) * len(begin))
    result[tuple(slice(*limits) for limits in zip(begin, end, step, strict=True))] = value
    return result


def _draw_assign_scalar(draw: Draw, shape: Shape) -> Application:
    scalars = maybe(draw, scalar=st.sampled_from([3, 1, 0]))
    return Application({**_draw_slice(draw, shape).attrs, **scalars})


register(
    *movers("SliceChannel split", _draw_split, _split),
    *movers("_split_v2 _npi_split", _draw_split_v2, _split_v2),
    *movers("slice_axis", _draw_slice_axis, _slice_axis),
    *movers("slice crop _npx_slice _npi_slice", _draw_slice, _slice),
    *movers("slice_like", _draw_slice_like, _slice_like),
    *movers("Crop", _draw_crop, _crop, ranks(4), dtypes=("float32",)),
    *movers("reverse flip _npi_flip", _draw_reverse, _reverse),
    *movers("_slice_assign _crop_assign _npi_slice_assign", _draw_assign, _assign, hybrid=False),
    *movers(
        "_slice_assign_scalar _crop_assign_scalar _npi_slice_assign_scalar",
        _draw_assign_scalar,
        lambda attrs, x: _assign(attrs, x, attrs.get("scalar", 0)),
        hybrid=False,
    ),
)
