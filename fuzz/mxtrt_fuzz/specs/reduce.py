"""Reductions over axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from mxtrt_fuzz.graphs import Shape
from mxtrt_fuzz.specs.base import Application, Attributes, Draw, OpSpec, maybe, register
from mxtrt_fuzz.values import Array

_REDUCTIONS: dict[str, Callable[..., Array]] = {
    "mean": np.mean,
    "sum": np.sum,
    "sum_axis": np.sum,
    "max": np.max,
    "max_axis": np.max,
    "min": np.min,
    "min_axis": np.min,
    "prod": np.prod,
}


def _draw(draw: Draw, shape: Shape) -> Application:
    rank = len(shape)
    attrs: dict[str, Any] = maybe(draw, keepdims=st.booleans())
    picked = sorted(draw(st.sets(st.integers(0, rank - 1))))
    if picked:
        # One sign for all: MXNet's check for repeated axes sorts them as they are written.
        shift = rank if draw(st.booleans()) else 0
        axes = tuple(axis - shift for axis in picked)
        attrs["axis"] = axes[0] if len(axes) == 1 and draw(st.booleans()) else axes
        if len(axes) < rank and draw(st.booleans()):
            attrs["exclude"] = True
    return Application(attrs)


def _reference(function: Callable[..., Array]) -> Callable[..., Array]:
    def reference(attrs: Attributes, x: Array) -> Array:
        axes = {axis % x.ndim for axis in attrs.integers("axis")}
        if not axes or attrs.get("exclude", False):  # without axes MXNet reduces all of them
            axes = set(range(x.ndim)) - axes
        reduced = function(x, axis=tuple(axes), keepdims=bool(attrs.get("keepdims", False)))
        return np.reshape(reduced, (1,)) if reduced.ndim == 0 else reduced

    return reference


register(
    *(
        OpSpec(
            name,
            _draw,
            _reference(function),
            roundings=2,
            sums=function in (np.sum, np.mean),
            nan_blind=name.startswith("m"),
        )
        for name, function in _REDUCTIONS.items()
    )
)
