"""Matrix products."""

from __future__ import annotations

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
    ranks,
    register,
)
from mxtrt_fuzz.values import Array


def _flags(draw: Draw) -> dict[str, Any]:
    return maybe(draw, transpose_a=st.booleans(), transpose_b=st.booleans())


def _operand(attrs: dict[str, Any], shape: Shape, row: int, columns: int) -> Shape:
    """Shape of a second operand for a product along the axes ``row`` and -1."""
    inner = shape[row] if attrs.get("transpose_a") else shape[-1]
    other = list(shape)
    other[row], other[-1] = inner, columns
    if attrs.get("transpose_b"):
        other[row], other[-1] = other[-1], other[row]
    return tuple(other)


def _product(attrs: Attributes, x: Array, y: Array) -> Array:
    if attrs.get("transpose_a", False):
        x = x.swapaxes(-1, -2)
    return x @ (y.swapaxes(-1, -2) if attrs.get("transpose_b", False) else y)


def _draw_batch_dot(draw: Draw, shape: Shape) -> Application:
    attrs = _flags(draw)
    return Application(attrs, (Operand(_operand(attrs, shape, -2, draw(st.integers(1, 4)))),))


def _draw_gemm2(draw: Draw, shape: Shape) -> Application:
    attrs = _flags(draw) | maybe(draw, alpha=st.sampled_from([-0.5, 1.0, 2.0]))
    rank = len(shape)
    row = rank - 2
    if draw(st.booleans()):
        row = draw(st.integers(0, rank - 2))
        attrs["axis"] = row - draw(st.sampled_from([0, rank]))
    return Application(attrs, (Operand(_operand(attrs, shape, row, draw(st.integers(1, 4)))),))


def _draw_gemm(draw: Draw, shape: Shape) -> Application:
    plain = _draw_gemm2(draw, shape)
    attrs = {**plain.attrs, **maybe(draw, beta=st.sampled_from([-2.0, 0.0, 0.5, 1.0]))}
    read = Attributes([(key, str(value)) for key, value in attrs.items()])
    zeros = (np.zeros(x) for x in (shape, plain.operands[0].shape))
    return Application(attrs, (*plain.operands, Operand(_gemm2(read, *zeros).shape)))


def _gemm2(attrs: Attributes, x: Array, y: Array) -> Array:
    row = attrs.get("axis", -2)
    x, y = x.swapaxes(row, -2), y.swapaxes(row, -2)
    return (x.dtype.type(attrs.get("alpha", 1.0)) * _product(attrs, x, y)).swapaxes(row, -2)


def _gemm(attrs: Attributes, x: Array, y: Array, z: Array) -> Array:
    product, beta = _gemm2(attrs, x, y), attrs.get("beta", 1.0)
    return product + z.dtype.type(beta) * z if beta else product


def _draw_dot(draw: Draw, shape: Shape) -> Application:
    rank = draw(st.integers(1, 3))
    # MXNet transposes no vector times a vector.
    attrs = _flags(draw) if max(rank, len(shape)) > 1 else {}
    inner = shape[0] if attrs.get("transpose_a") else shape[-1]
    rest = tuple(draw(st.lists(st.integers(1, 4), min_size=rank - 1, max_size=rank - 1)))
    other = (*rest, inner) if attrs.get("transpose_b") else (inner, *rest)
    return Application(attrs, (Operand(other),))


def _dot(attrs: Attributes, x: Array, y: Array) -> Array:
    """Any other axes than the one summed over stay in order; MXNet gives no scalar."""
    first = 0 if attrs.get("transpose_a", False) else x.ndim - 1
    second = y.ndim - 1 if attrs.get("transpose_b", False) else 0
    return np.atleast_1d(np.tensordot(x, y, (first, second)))


def _small(shape: Shape) -> bool:
    return len(shape) <= 4 and prod(shape) <= 256


# A sum of many products rounds its partial sums too.
_SUMS = 3.0

register(
    *(
        OpSpec(
            name,
            _draw_batch_dot,
            _product,
            rank_at_least(3),
            roundings=_SUMS,
            products=True,
            dtypes=WIDE_FLOATS,
        )
        for name in ("batch_dot", "_npx_batch_dot")
    ),
    *(
        OpSpec(
            name,
            _draw_gemm2,
            _gemm2,
            ranks(2, 3, 4),
            roundings=_SUMS,
            products=True,
            dtypes=WIDE_FLOATS,
        )
        for name in ("_linalg_gemm2", "linalg_gemm2")
    ),
    *(
        OpSpec(
            name,
            _draw_gemm,
            _gemm,
            ranks(2, 3, 4),
            roundings=_SUMS,
            products=True,
            dtypes=WIDE_FLOATS,
        )
        for name in ("_linalg_gemm", "linalg_gemm")
    ),
    OpSpec("dot", _draw_dot, _dot, _small, roundings=_SUMS, products=True, dtypes=WIDE_FLOATS),
)
