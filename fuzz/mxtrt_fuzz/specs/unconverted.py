"""Operators that no engine takes: they split graphs into segments wherever they stand."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from mxtrt_fuzz.graphs import Shape
from mxtrt_fuzz.specs.base import (
    Application,
    Attributes,
    Draw,
    OpSpec,
    like,
    register,
)
from mxtrt_fuzz.values import Array


def _draw_axis(draw: Draw, shape: Shape) -> Application:
    # Without the attribute, MXNet fails to build the gradient of a hybridized sort.
    return Application({"axis": draw(st.integers(-len(shape), len(shape) - 1))})


def _sort(attrs: Attributes, x: Array) -> Array:
    """Ascending; a row with a NaN has no order."""
    axis = attrs.get("axis", -1)
    unordered = np.isnan(x).any(axis, keepdims=True)
    return np.where(unordered, x.dtype.type(np.nan), np.sort(x, axis))




register(
    OpSpec("sort", _draw_axis, _sort, roundings=0, nan_blind=True),
    OpSpec(
        "reverse",
        lambda draw, shape: Application({"axis": draw(st.integers(0, len(shape) - 1))}),
        lambda attrs, x: np.flip(x, attrs["axis"]),
        roundings=0,
    ),
    OpSpec(
        "round",
        like,
        lambda attrs, x: np.copysign(np.floor(np.abs(x) + 0.5), x),
        roundings=0,
        jumps=True,
        nan_blind=True,
    ),
)
