"""Ranges of axes are taken, reversed and replaced where MXNet does it."""

from __future__ import annotations

from typing import Any

import pytest
from support.converters import check, check_op, data, mx, refusal, symbol


@pytest.mark.parametrize("attrs", [{}, {"axes": (1, -1)}, {"axes": (0,)}])
def test_slice_like_agrees(attrs: dict[str, Any]) -> None:
    """From the front, on all axes or some."""
    check_op("slice_like", (4, 5, 6), (2, 3, 4), **attrs)


def test_slice_like_of_the_same_size_does_nothing() -> None:
    """The second input is not read at all."""
    assert check_op("slice_like", (2, 3), (2, 3)).ops == ["Identity"]


@pytest.mark.parametrize(
    ("shapes", "attrs"),
    [
        ([(2, 3, 6, 7)], {"num_args": 1, "h_w": (2, 3), "offset": (1, 4)}),
        ([(2, 3, 6, 7)], {"num_args": 1, "h_w": (3, 2), "center_crop": True}),
        ([(2, 3, 6, 7), (1, 1, 4, 4)], {"num_args": 2}),
        ([(2, 3, 6, 7), (1, 1, 3, 4)], {"num_args": 2, "center_crop": 1}),
    ],
)
def test_crop_agrees(shapes: list[tuple[int, ...]], attrs: dict[str, Any]) -> None:
    """To a size given or that of another input; half a pixel goes to the front."""
    check_op("Crop", *shapes, **attrs)


@pytest.mark.parametrize("axis", [0, (1, 2), (0, 1, 0)])
def test_reverse_agrees(axis: Any) -> None:
    """Twice is not at all."""
    check_op("reverse", (2, 3, 4), axis=axis)


def test_reverse_of_a_negative_axis_is_refused() -> None:
    """MXNet reads its size beside the shape; the operator of its NumPy interface does not."""
    assert "out of range" in refusal("reverse", (2, 3), axis=-1)
    check_op("_npi_flip", (2, 3), axis=(1,))


@pytest.mark.parametrize(
    "attrs",
    [
        {"indices": (0, 2, 3)},
        {"indices": (), "sections": 4},
        {"indices": (), "sections": 3, "axis": -1},
        {"indices": (0, 1, 2), "axis": 2, "squeeze_axis": True},
    ],
)
def test_split_v2_agrees_on_every_output(attrs: dict[str, Any]) -> None:
    """Parts of unequal size, by limits or as equal as they can be."""
    check_op("_split_v2", (2, 5, 3), **attrs)


def test_split_v2_that_drops_the_front_is_refused() -> None:
    """MXNet infers a smaller input from its own parts."""
    reason = refusal("_split_v2", (2, 5), out=(2, 3), indices="(2,)")
    assert "does not begin at 0" in reason


@pytest.mark.parametrize(
    "limits",
    [
        {"begin": (1,), "end": (3,)},
        {"begin": (None, 4), "end": (None, None), "step": (None, -2)},
        {"begin": (2, 0, 1), "end": (0, 5, 4), "step": (-1, 3, 2)},
        {"begin": (None,), "end": (None,)},
    ],
)
def test_assignment_to_a_slice_agrees(limits: dict[str, Any]) -> None:
    """A tensor or a scalar, with steps of either sign."""
    x = data(0, 3, 5, 4)
    part = mx.sym.slice(mx.sym.var("x"), **limits)
    _, (shape,), _ = part.infer_shape(x=x.shape)
    sym = symbol("_slice_assign", mx.sym.var("x"), mx.sym.var("y"), **limits)
    check(sym, {"x": x, "y": data(1, *shape)}, ("x", "y"), tolerance=0)
    check_op("_slice_assign_scalar", x.shape, scalar=2.5, **limits)
