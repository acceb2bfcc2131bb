"""Operators that repeat values: broadcasting, tiling and repetition."""

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
    movers,
    one_axis,
    register,
    sizes,
)
from mxtrt_fuzz.values import Array


def _draw_sizes(draw: Draw, shape: Shape) -> dict[int, int]:
    """Sizes for some axes of size one."""
    return {
        i: draw(st.integers(1, 3)) for i, n in enumerate(shape) if n == 1 and draw(st.booleans())
    }


def _draw_axes(draw: Draw, shape: Shape) -> Application:
    target = _draw_sizes(draw, shape)
    if len(target) == 1 and draw(st.booleans()):
        ((axis, size),) = target.items()
        return Application({"axis": axis, "size": size})
    return Application({"axis": tuple(target), "size": tuple(target.values())})


def _to_axes(attrs: Attributes, x: Array) -> Array:
    shape = list(x.shape)
    for axis, size in zip(attrs.integers("axis"), attrs.integers("size"), strict=True):
        shape[axis] = size
    return np.broadcast_to(x, shape)


def _draw_to(draw: Draw, shape: Shape) -> Application:
    target = _draw_sizes(draw, shape)
    kept = [draw(st.sampled_from([0, size])) for size in shape]
    return Application({"shape": tuple(target.get(axis, n) for axis, n in enumerate(kept))})


def _to(attrs: Attributes, x: Array) -> Array:
    target = attrs.integers("shape")
    return np.broadcast_to(x, [t or n for t, n in zip(target, x.shape, strict=True)])


def _draw_np_to(draw: Draw, shape: Shape) -> Application:
    target = _draw_sizes(draw, shape)
    new = sizes(draw, draw(st.integers(0, 1)), 1, 3)
    return Application({"shape": (*new, *(target.get(axis, n) for axis, n in enumerate(shape)))})


def _draw_like(draw: Draw, shape: Shape) -> Application:
    """All axes, or some axes of size one to the sizes of some axes of another rank."""
    target = _draw_sizes(draw, shape)
    if not target or draw(st.booleans()):
        other = tuple(target.get(axis, size) for axis, size in enumerate(shape))
        return Application({}, (Operand(other),))
    rank = draw(st.integers(len(target), 4))
    places = draw(st.permutations(range(rank)))[: len(target)]
    values = dict(zip(places, target.values(), strict=True))
    other = tuple(values.get(axis, 2) for axis in range(rank))
    shift = rank if draw(st.booleans()) else 0
    attrs = {"lhs_axes": tuple(target), "rhs_axes": tuple(place - shift for place in places)}
    return Application(attrs, (Operand(other),))


def _like(attrs: Attributes, x: Array, like: Array) -> Array:
    if not attrs.integers("lhs_axes"):
        return np.broadcast_to(x, like.shape)
    shape = list(x.shape)
    for axis, place in zip(attrs.integers("lhs_axes"), attrs.integers("rhs_axes"), strict=True):
        shape[axis] = like.shape[place]
    return np.broadcast_to(x, shape)


def _draw_tile(draw: Draw, shape: Shape) -> Application:
    repeats = [1] * draw(st.integers(1, min(len(shape) + 1, 5)))
    for _ in range(2):  # of more axes MXNet may find that they are too many
        repeats[draw(st.integers(0, len(repeats) - 1))] = draw(st.integers(1, 3))
    return Application({"reps": tuple(repeats)})


def _draw_repeat(draw: Draw, shape: Shape) -> Application:
    attrs: dict[str, Any] = {"repeats": draw(st.integers(1, 3))}
    if draw(st.integers(0, 3)):
        attrs["axis"] = one_axis(draw, len(shape))
    return Application(attrs)


register(
    *movers("broadcast_axis broadcast_axes", _draw_axes, _to_axes),
    *movers("broadcast_to", _draw_to, _to),
    *movers("_npi_broadcast_to", _draw_np_to, lambda a, x: np.broadcast_to(x, a.integers("shape"))),
    *movers("broadcast_like", _draw_like, _like),
    *movers("tile _npi_tile", _draw_tile, lambda a, x: np.tile(x, a.integers("reps"))),
    *movers(
        "repeat _np_repeat",
        _draw_repeat,
        lambda a, x: np.repeat(x, a["repeats"], a.get("axis", None)),
    ),
)
