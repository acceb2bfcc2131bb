"""Operators that create values from attributes or from a shape alone."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import Any

import numpy as np
from hypothesis import strategies as st

from mxtrt_fuzz.graphs import Shape
from mxtrt_fuzz.specs.base import (
    NUMBERS,
    Application,
    Attributes,
    Draw,
    like,
    maybe,
    movers,
    register,
    sizes,
)
from mxtrt_fuzz.values import Array

_DTYPES = st.sampled_from([dtype for dtype in NUMBERS if dtype != "float64"])


def _created(attrs: Attributes, dtype: str) -> str:
    return str(attrs.get("dtype", "float32"))


def _draw_shape(draw: Draw, _: Shape) -> Application:
    shape = sizes(draw, draw(st.integers(1, 4)), 1, 5)
    return Application({"shape": shape, **maybe(draw, dtype=_DTYPES)})


def _draw_full(draw: Draw, _: Shape) -> Application:
    attrs = dict(_draw_shape(draw, ()).attrs)
    # A fraction is dropped where the dtype is an integer's.
    return Application({**attrs, "value": draw(st.sampled_from([0, 1, 2.5, 100]))})


def _full(value: float | None = None) -> Callable[..., Array]:
    def reference(attrs: Attributes) -> Array:
        given = attrs["value"] if value is None else value
        return np.full(attrs.integers("shape"), _as(given, attrs), np.float64)

    return reference


def _as(value: Any, attrs: Attributes) -> Any:
    """Numbers as the attribute ``dtype`` holds them."""
    return value if _created(attrs, "").startswith("float") else np.trunc(value)


def _draw_eye(draw: Draw, _: Shape) -> Application:
    attrs = {"N": draw(st.integers(1, 5))}
    more = maybe(draw, M=st.integers(0, 5), k=st.integers(-5, 5), dtype=_DTYPES)
    return Application({**attrs, **more})


def _eye(attrs: Attributes) -> Array:
    return np.eye(attrs["N"], attrs.get("M", 0) or None, attrs.get("k", 0))


def _draw_np_eye(draw: Draw, _: Shape) -> Application:
    attrs = dict(_draw_eye(draw, ()).attrs)
    return Application({key: value for key, value in attrs.items() if (key, value) != ("M", 0)})


def _draw_arange(draw: Draw, _: Shape) -> Application:
    step = draw(st.sampled_from([1, 2, 0.5, 1.5]))
    start = draw(st.sampled_from([0, 1, 3, 0.25]))
    stop = start + step * draw(st.sampled_from([1, 2.5, 5, 7]))
    attrs: dict[str, Any] = {"start": start, "stop": stop, "step": step}
    if start == 0 and draw(st.booleans()):
        attrs = {"start": stop, "step": step}
    return Application({**attrs, **maybe(draw, repeat=st.integers(1, 3), dtype=_DTYPES)})


def _draw_np_arange(draw: Draw, _: Shape) -> Application:
    return Application({**_draw_arange(draw, ()).attrs, "repeat": 1})


def _arange(attrs: Attributes) -> Array:
    start, stop, step = attrs["start"], attrs.get("stop", None), attrs.get("step", 1)
    if stop is None:
        start, stop = 0, start
    repeat = attrs.get("repeat", 1)
    places = np.arange(ceil((stop - start) / step) * repeat) // repeat
    if _created(attrs, "") == "float16":  # MXNet multiplies whole numbers (mshadow/half.h)
        start, step = np.trunc(start), np.trunc(step)
    return _as(start, attrs) + places * _as(step, attrs)


def _draw_linspace(draw: Draw, _: Shape) -> Application:
    attrs = {"start": draw(st.sampled_from([0, 1.5, 4])), "stop": draw(st.sampled_from([3, 10.25]))}
    more = maybe(draw, endpoint=st.booleans(), dtype=_DTYPES)
    return Application({**attrs, "num": draw(st.integers(1, 6)), **more})


def _linspace(attrs: Attributes) -> Array:
    count = attrs["num"]
    steps = max(count - 1 if attrs.get("endpoint", True) else count, 1)
    start = attrs["start"]
    return _as(start + (attrs["stop"] - start) / steps * np.arange(count), attrs)


def _draw_full_like(draw: Draw, shape: Shape) -> Application:
    attrs = {"fill_value": draw(st.sampled_from([0, 1, 3]))}
    return Application({**attrs, **maybe(draw, dtype=_DTYPES)})


def _creators(
    names: str, apply: Callable[[Draw, Shape], Application], reference: Callable[..., Array]
) -> list[Any]:
    return movers(names, apply, reference, creates=True, result=_created)


register(
    *_creators("_zeros _npi_zeros", _draw_shape, _full(0)),
    *movers(
        "_zeros_without_dtype",
        # Without the flag of one it takes the dtype of what reads it, which may know none.
        lambda draw, _: Application({"shape": _draw_shape(draw, ()).attrs["shape"], "dtype": 0}),
        lambda attrs: np.zeros(attrs.integers("shape")),
        creates=True,
    ),
    *_creators("_ones _npi_ones", _draw_shape, _full(1)),
    *_creators("_full _npi_full", _draw_full, _full()),
    *_creators("_eye", _draw_eye, _eye),
    *_creators("_npi_eye", _draw_np_eye, _eye),
    *_creators("_arange", _draw_arange, _arange),
    *_creators("_npi_arange", _draw_np_arange, _arange),
    *_creators("_linspace _npi_linspace", _draw_linspace, _linspace),
    *movers("zeros_like", like, lambda attrs, x: np.zeros_like(x)),
    *movers("ones_like", like, lambda attrs, x: np.ones_like(x)),
    *movers(
        "_npi_full_like",
        _draw_full_like,
        lambda attrs, x: np.full_like(x, attrs["fill_value"]),
        result=lambda attrs, dtype: str(attrs.get("dtype", dtype)),
    ),
    *movers(
        "shape_array _npx_shape_array",
        like,
        lambda attrs, x: np.array(x.shape),
        result=lambda attrs, _: "int64",
    ),
    *movers(
        "size_array", like, lambda attrs, x: np.array([x.size]), result=lambda attrs, _: "int64"
    ),
)
