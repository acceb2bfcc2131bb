"""Reductions over axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from mxtrt_fuzz.graphs import Shape
from mxtrt_fuzz.specs.base import (
    ARITHMETIC,
    FLOATS,
    Application,
    Attributes,
    Draw,
    OpSpec,
    maybe,
    register,
)
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
    "nansum": np.nansum,
    "nanprod": np.nanprod,
}
_SPREADS = {"nansum": np.sum, "nanprod": np.sum}


def _draw(draw: Draw, shape: Shape) -> Application:
    rank = len(shape)
    attrs: dict[str, Any] = maybe(draw, keepdims=st.booleans())
    picked = sorted(draw(st.sets(st.integers(0, rank - 1))))
    if picked:
        # One sign for all: MXNet's check for repeated axes sorts them as they are written.
        shift = rank if draw(st.booleans()) else 0
        axes = tuple(axis - shift for axis in picked)
        attrs["axis"] = axes[0] if len(axes) == 1 and draw(st.booleans()) else axes
        if draw(st.booleans()):
            attrs["exclude"] = True
    elif draw(st.booleans()):
        attrs["exclude"] = True  # of no axes: MXNet reduces all
    return Application(attrs)


def _axes(attrs: Attributes, x: Array, key: str) -> tuple[int, ...]:
    """Without axes MXNet reduces all of them."""
    return tuple(axis % x.ndim for axis in attrs.integers(key)) or tuple(range(x.ndim))


def _shaped(reduced: Any) -> Array:
    """MXNet has no tensor without axes."""
    array: Array = np.asarray(reduced)
    return np.reshape(array, (1,)) if array.ndim == 0 else array


def _reference(function: Callable[..., Array]) -> Callable[..., Array]:
    def reference(attrs: Attributes, x: Array) -> Array:
        axes = _axes(attrs, x, "axis")
        if attrs.get("exclude", False) and len(attrs.integers("axis")):
            axes = tuple(set(range(x.ndim)) - set(axes))
        return _shaped(function(x, axis=axes, keepdims=bool(attrs.get("keepdims", False))))

    return reference


register(
    *(
        OpSpec(
            name,
            _draw,
            _reference(function),
            dtypes=ARITHMETIC if function in (np.sum, np.max, np.min) else FLOATS,
            roundings=2,
            sums=function in (np.sum, np.mean, np.nansum),
            compensated=function is np.nansum,
            spread=_reference(_SPREADS[name]) if name in _SPREADS else None,
        )
        for name, function in _REDUCTIONS.items()
    )
)


def _draw_norm(draw: Draw, shape: Shape) -> Application:
    attrs = {key: value for key, value in _draw(draw, shape).attrs.items() if key != "exclude"}
    # MXNet takes one or two axes.
    if len(shape) > 2 and len(np.atleast_1d(attrs.get("axis", ()))) > 2:
        del attrs["axis"]
    return Application({**attrs, **maybe(draw, ord=st.sampled_from([1, 2]))})


def _norm(attrs: Attributes, x: Array) -> Array:
    axes, keep = _axes(attrs, x, "axis"), bool(attrs.get("keepdims", False))
    if attrs.get("ord", 2) == 1:
        return _shaped(np.abs(x).sum(axes, keepdims=keep))
    return _shaped(np.sqrt((x**2).sum(axes, keepdims=keep)))


def _draw_moments(draw: Draw, shape: Shape) -> Application:
    axes = sorted(draw(st.sets(st.integers(0, len(shape) - 1), min_size=1)))
    return Application({"axes": tuple(axes), **maybe(draw, keepdims=st.booleans())})


def _moments(attrs: Attributes, x: Array, statistics: Array | None = None) -> tuple[Array, Array]:
    axes, keep = _axes(attrs, x, "axes"), bool(attrs.get("keepdims", False))
    centre = (x if statistics is None else statistics).mean(axes, keepdims=True)
    return _shaped(x.mean(axes, keepdims=keep)), _shaped(
        ((x - centre) ** 2).mean(axes, keepdims=keep)
    )


def _draw_cumsum(draw: Draw, shape: Shape) -> Application:
    # MXNet reads the size of a negative axis from where no shape is.
    return Application(maybe(draw, axis=st.integers(0, len(shape) - 1)))


def _cumsum(attrs: Attributes, x: Array) -> Array:
    return np.cumsum(x, attrs.get("axis", None), dtype=x.dtype)


register(
    OpSpec("norm", _draw_norm, _norm, roundings=2, sums=True, squares=True),
    # Where nothing reads the mean, MXNet's variance is that around whatever is in its place.
    OpSpec("moments", _draw_moments, _moments, roundings=4, statistics=True, sums=True, whole=True),
    *(
        OpSpec(name, _draw_cumsum, _cumsum, dtypes=ARITHMETIC, running=True)
        for name in ("_np_cumsum", "cumsum")
    ),
)
