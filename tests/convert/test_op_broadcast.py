"""Repeated values are MXNet's."""

from __future__ import annotations

from typing import Any

import pytest
from support.converters import check_op, data, mx, refusal, symbol, to_onnx


@pytest.mark.parametrize(
    ("op", "shape", "attrs"),
    [
        ("broadcast_axis", (2, 1, 3, 1), {"axis": (1, 3), "size": (4, 2)}),
        ("broadcast_axis", (1, 3), {"axis": 0, "size": 5}),
        ("broadcast_to", (1, 3, 1), {"shape": (2, 0, 4)}),
        ("_npi_broadcast_to", (3, 1), {"shape": (2, 3, 4)}),
        ("tile", (2, 3), {"reps": (2, 1, 3)}),
        ("tile", (2, 3, 4), {"reps": 2}),
        ("repeat", (2, 3), {"repeats": 2}),
        ("repeat", (2, 3), {"repeats": 3, "axis": 0}),
        ("repeat", (2, 3), {"repeats": 2, "axis": -1}),
        ("repeat", (2, 3), {"repeats": 17, "axis": 1}),
        ("repeat", (2, 3), {"repeats": 1, "axis": 1}),
    ],
)
def test_repetition_agrees(op: str, shape: tuple[int, ...], attrs: dict[str, Any]) -> None:
    """Axes of size one, whole tensors and single elements."""
    check_op(op, shape, **attrs)


@pytest.mark.parametrize(
    ("shapes", "attrs"),
    [
        ([(1, 3, 1), (2, 3, 4)], {}),
        ([(2, 3, 1), (7, 4)], {"lhs_axes": (2,), "rhs_axes": (-1,)}),
        ([(1, 3, 1), (4, 7)], {"lhs_axes": (-1, 0), "rhs_axes": (0, 1)}),
        ([(2, 3), (2, 3)], {}),
    ],
)
def test_broadcast_like_agrees(shapes: list[tuple[int, ...]], attrs: dict[str, Any]) -> None:
    """All axes of the second input, or some in another order."""
    check_op("broadcast_like", *shapes, **attrs)


@pytest.mark.parametrize("attrs", [{}, {"lhs_axes": (0, 1), "rhs_axes": (0, 1)}])
def test_broadcast_to_the_batch_is_the_same_for_batch_2_and_4(attrs: dict[str, Any]) -> None:
    """Its size is read from the second input."""
    sym = symbol("broadcast_like", mx.sym.var("x"), mx.sym.var("y"), **attrs)
    bodies = [
        to_onnx(sym, {"x": data(0, 1, 1, 4), "y": data(0, batch, 3, 4)}, ("x", "y")).body
        for batch in (2, 4)
    ]
    assert bodies[0] == bodies[1]


def test_shapes_that_do_not_broadcast_are_refused() -> None:
    """They come from attributes that MXNet misreads."""
    assert "do not broadcast" in refusal("broadcast_axis", (2, 3), out=(4, 3), axis=0, size=4)
