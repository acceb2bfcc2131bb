"""The attention operators of GluonNLP and Sockeye."""

from __future__ import annotations

from collections.abc import Callable
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
    like,
    register,
)
from mxtrt_fuzz.values import Array


def _features(parts: int) -> Callable[[Shape], bool]:
    """Shapes (length, batch, features) whose features are parts of some head."""
    return lambda shape: len(shape) == 3 and shape[2] % parts == 0


def _projection(parts: int) -> Callable[[Draw], Shape]:
    def draw_shape(draw: Draw) -> Shape:
        sizes = [draw(st.integers(1, highest)) for highest in (6, 3, 3, 4)]
        return sizes[0], sizes[1], parts * sizes[2] * sizes[3]

    return draw_shape


def _heads(draw: Draw, shape: Shape, parts: int) -> dict[str, Any]:
    features = shape[2] // parts
    return {"heads": draw(st.sampled_from([n for n in range(1, 5) if features % n == 0]))}


def _split(attrs: Attributes, x: Array, parts: int) -> Array:
    """(parts, batch * heads, length, head size)."""
    length, batch, features = x.shape
    heads = attrs["heads"]
    split = x.reshape(length, batch * heads, parts, features // (parts * heads))
    return split.transpose(2, 1, 0, 3)


def _scores(query: Array, key: Array) -> Array:
    return query @ key.swapaxes(1, 2) / np.sqrt(query.dtype.type(query.shape[-1]))


def _context(attention: Array, value: Array, batch: int) -> Array:
    product = (attention @ value).transpose(1, 0, 2)
    return product.reshape(product.shape[0], batch, -1)


def _selfatt_qk(attrs: Attributes, x: Array) -> Array:
    query, key, _ = _split(attrs, x, 3)
    return _scores(query, key)


def _selfatt_valatt(attrs: Attributes, x: Array, attention: Array) -> Array:
    return _context(attention, _split(attrs, x, 3)[2], x.shape[1])


def _encdec_qk(attrs: Attributes, x: Array, keys_values: Array) -> Array:
    return _scores(_split(attrs, x, 1)[0], _split(attrs, keys_values, 2)[0])


def _encdec_valatt(attrs: Attributes, x: Array, attention: Array) -> Array:
    return _context(attention, _split(attrs, x, 2)[1], x.shape[1])


def _draw_selfatt_qk(draw: Draw, shape: Shape) -> Application:
    return Application(_heads(draw, shape, 3))


def _draw_selfatt_valatt(draw: Draw, shape: Shape) -> Application:
    attrs = _heads(draw, shape, 3)
    attention = (shape[1] * attrs["heads"], shape[0], shape[0])
    return Application(attrs, (Operand(attention, low=0, high=1),))


def _draw_encdec_qk(draw: Draw, shape: Shape) -> Application:
    keys_values = (draw(st.integers(1, 5)), shape[1], 2 * shape[2])
    return Application(_heads(draw, shape, 1), (Operand(keys_values),))


def _draw_encdec_valatt(draw: Draw, shape: Shape) -> Application:
    attrs = _heads(draw, shape, 2)
    attention = (shape[1] * attrs["heads"], draw(st.integers(1, 5)), shape[0])
    return Application(attrs, (Operand(attention, low=0, high=1),))


def _interleaved(
    kind: str, draw: Callable[[Draw, Shape], Application], reference: Callable[..., Array], of: int
) -> OpSpec:
    return OpSpec(
        f"_contrib_interleaved_matmul_{kind}",
        draw,
        reference,
        _features(of),
        _projection(of),
        dtypes=("float32",),  # MXNet has no other kernel on a CPU
        roundings=3,
        products=True,
    )


register(
    _interleaved("selfatt_qk", _draw_selfatt_qk, _selfatt_qk, 3),
    _interleaved("selfatt_valatt", _draw_selfatt_valatt, _selfatt_valatt, 3),
    _interleaved("encdec_qk", _draw_encdec_qk, _encdec_qk, 1),
    _interleaved("encdec_valatt", _draw_encdec_valatt, _encdec_valatt, 2),
    OpSpec(
        "_contrib_div_sqrt_dim",
        like,
        lambda attrs, x: x / x.dtype.type(np.sqrt(x.shape[-1])),
        roundings=2,
    ),
)
