"""Operators on sequences of several lengths.

Lengths are between 1 and the axis's size, or 0 where MXNet says what that means: beyond, it
reads and writes outside its arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    maybe,
    rank_at_least,
    register,
)
from mxtrt_fuzz.values import Array

__all__ = ["lengths"]

_DTYPES = ("float32", "int32", "int64", "uint8")


def lengths(draw: Draw, shape: Shape, lowest: int, highest: int, dtypes: Sequence[str]) -> Operand:
    """An operand of lengths, of one of some dtypes."""
    dtype = draw(st.sampled_from(dtypes))
    if dtype == "float32":
        # MXNet cuts off what is behind the point; a weight is never special.
        return Operand(shape, "weight", lowest, highest + 0.75, dtype=dtype)
    return Operand(shape, low=lowest, high=highest, fits=lambda shape: False, dtype=dtype)


def _draw_sequence(draw: Draw, shape: Shape, axes: int, lowest: int) -> Application:
    attrs: dict[str, Any] = maybe(draw, axis=st.integers(0, axes - 1))
    if not draw(st.booleans()):
        return Application(attrs)
    attrs["use_sequence_length"] = True
    axis = attrs.get("axis", 0)
    operand = lengths(draw, (shape[1 - axis],), lowest, shape[axis], _DTYPES)
    return Application(attrs, (operand,))


def _draw_mask(draw: Draw, shape: Shape) -> Application:
    plain = _draw_sequence(draw, shape, 2, 0)
    return Application(
        {**plain.attrs, **maybe(draw, value=st.sampled_from([-1e3, 0.5]))}, plain.operands
    )


def _sequence_mask(attrs: Attributes, x: Array, *length: Array) -> Array:
    if not length:
        return x
    y = x.swapaxes(0, attrs.get("axis", 0)).copy()
    for sequence, end in enumerate(length[0].astype(int)):
        y[end:, sequence] = attrs.get("value", 0.0)
    return y.swapaxes(0, attrs.get("axis", 0))


def _sequence_last(attrs: Attributes, x: Array, *length: Array) -> Array:
    x = x.swapaxes(0, attrs.get("axis", 0))
    if not length:
        return x[-1]
    # Shapes are inferred from lengths of zero.
    return x[np.maximum(length[0].astype(int) - 1, 0), np.arange(x.shape[1])]


def _sequence_reverse(attrs: Attributes, x: Array, *length: Array) -> Array:
    if not length:
        return x[::-1]
    y = x.copy()
    for sequence, end in enumerate(length[0].astype(int)):
        y[:end, sequence] = x[:end, sequence][::-1]
    return y


def _draw_arange_like(draw: Draw, shape: Shape) -> Application:
    return Application(
        maybe(
            draw,
            axis=st.integers(-len(shape), len(shape) - 1),
            start=st.sampled_from([-1.5, 2.0]),
            step=st.sampled_from([-2.0, 0.0, 0.5]),
            repeat=st.integers(1, 3),
        )
    )


def _arange_like(attrs: Attributes, x: Array) -> Array:
    axis = attrs.get("axis", None)
    shape = x.shape if axis is None else (x.shape[axis],)
    places = np.arange(prod(shape)).reshape(shape) // attrs.get("repeat", 1)
    start, step = (x.dtype.type(attrs.get(*default)) for default in (("start", 0), ("step", 1)))
    line: Array = start + places.astype(x.dtype) * step
    return line


register(
    OpSpec("SequenceMask", _draw_mask, _sequence_mask, rank_at_least(2), roundings=0),
    OpSpec(
        "SequenceLast",
        lambda draw, shape: _draw_sequence(draw, shape, 2, 1),
        _sequence_last,
        rank_at_least(2),
        roundings=0,
    ),
    OpSpec(
        "SequenceReverse",
        lambda draw, shape: _draw_sequence(draw, shape, 1, 0),
        _sequence_reverse,
        rank_at_least(2),
        roundings=0,
    ),
    *(
        OpSpec(name, _draw_arange_like, _arange_like, dtypes=WIDE_FLOATS)
        for name in ("_contrib_arange_like", "_npx_arange_like")
    ),
)
