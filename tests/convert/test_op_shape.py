"""Operators that move data put every element where MXNet puts it."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from support.converters import SWEEP, check, check_op, data, mx, refusal, symbol


@pytest.mark.parametrize("dim", [None, 0, 1, 2, 3, -1, -3])
def test_concat_agrees(dim: int | None) -> None:
    """Along the channels by default."""
    shapes = [[2, 3, 4, 5] for _ in range(3)]
    for i, shape in enumerate(shapes):
        shape[1 if dim is None else dim] = i + 1
    attrs = {} if dim is None else {"dim": dim}
    assert check_op("Concat", *shapes, num_args=3, **attrs).ops == ["Concat"]


@pytest.mark.parametrize("axis", [None, 0, 1, 2, -1])
def test_stack_agrees(axis: int | None) -> None:
    """A new axis, the first by default."""
    attrs = {} if axis is None else {"axis": axis}
    check_op("stack", (2, 3), (2, 3), num_args=2, **attrs)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 3), (4,), (1, 2, 3, 1, 2)])
def test_flatten_agrees(shape: tuple[int, ...]) -> None:
    """Every axis but the first."""
    assert check_op("Flatten", shape).ops == ["Flatten"]


@pytest.mark.parametrize(
    ("source", "shape", "reverse"),
    [
        ((2, 3, 4), (4, 0, 2), False),
        ((2, 3, 4), (2, 0, 0), False),
        ((2, 3, 4), (6, 1, -1), False),
        ((2, 3, 4), (3, -1, 8), False),
        ((2, 3, 4), (-1,), False),
        ((2, 3, 4), -1, False),
        ((2, 3, 4), (-2,), False),
        ((2, 3, 4), (2, -2), False),
        ((2, 3, 4), (-2, 1, 1), False),
        ((2, 3, 4), (-3, 4), False),
        ((2, 3, 4, 5), (-3, -3), False),
        ((2, 3, 4), (0, -3), False),
        ((2, 3, 4), (-3, -2), False),
        ((2, 3, 4), (-4, 1, 2, -2), False),
        ((2, 3, 4), (2, -4, -1, 3, -2), False),
        ((8, 3, 3), (-4, 2, -1, -2), False),
        ((10, 5, 4), (-1, 0), True),
        ((8, 3, 4, 5), (0, -3, -1), True),
        ((2, 8, 3, 3), (0, -4, 2, -1, -2), False),
        ((2, 3, 4), (0, 0, 0), True),
        ((1, 1, 20), (1, 20), False),
        ((1, 20), (2, 10), False),
    ],
)
def test_reshape_codes_agree(source: tuple[int, ...], shape: Any, reverse: bool) -> None:
    """The special values 0, -1, -2, -3 and -4, read from either end."""
    check_op("Reshape", source, shape=shape, reverse=reverse)


def test_reshape_reads_the_old_target_shape() -> None:
    """The attribute of MXNet before 0.9, where 0 means to infer."""
    check_op("Reshape", (2, 3, 4), target_shape=(2, 0), keep_highest=False)


def test_reshape_to_another_size_is_refused() -> None:
    """Shapes that do not fit come from codes that MXNet misreads."""
    assert "another size" in refusal("Reshape", (2, 3), out=(7,), shape=(7,))


@pytest.mark.parametrize("axes", [*permutations(range(3)), None, ()])
def test_transpose_agrees(axes: tuple[int, ...] | None) -> None:
    """Every order; none given means reversed."""
    check_op("transpose", (2, 3, 4), **({} if axes is None else {"axes": axes}))


def test_joins_and_moves_of_the_numpy_interface_agree() -> None:
    """Negative axes, and several moved at once; a join of flattened inputs is refused."""
    check_op("_np_transpose", (2, 3, 4), axes=(-1, 0, 1))
    check_op("_np_moveaxis", (2, 3, 4, 5), source=(0, -1), destination=(2, 0))
    check_op("_npi_concatenate", (2, 3), (2, 4), num_args=2, axis=-1)
    assert "axis=None" in refusal("_npi_concatenate", (2, 3), out=(6,), axis=None)


@pytest.mark.parametrize(
    ("source", "codes"),
    [((2, 3, 4), (-2, -5)), ((6, 1, 4), (-6, 2, -1, -3, -4)), ((2, 3, 4), (-1, 4))],
)
def test_codes_of_the_numpy_interface_agree(source: tuple[int, ...], codes: Any) -> None:
    """-2 keeps, -3 drops, -4 keeps the rest, -5 merges and -6 splits."""
    check_op("_npx_reshape", source, newshape=codes)


@pytest.mark.parametrize(
    ("shapes", "attrs"),
    [
        ([(6, 4), (3, 8)], {}),
        ([(30, 7), (15, 2, 4)], {"lhs_end": 1, "rhs_end": 2}),
        ([(5, 12), (4, 2, 2, 3)], {"lhs_begin": -1, "rhs_begin": 1}),
    ],
)
def test_reshape_like_agrees(shapes: list[tuple[int, ...]], attrs: dict[str, Any]) -> None:
    """All axes or some."""
    check_op("reshape_like", *shapes, **attrs)


@pytest.mark.parametrize("op", ["depth_to_space", "space_to_depth"])
def test_blocks_agree(op: str) -> None:
    """MXNet's order of the channels, in floats and in integers."""
    x = data(0, 2, 12, 4, 6, low=-99, high=99)
    for dtype in (np.float32, np.int32, np.int8):
        sym = symbol(op, mx.sym.var("x"), block_size=2)
        check(sym, {"x": x.astype(dtype)}, tolerance=0)


def test_transpose_by_no_permutation_is_refused() -> None:
    """Repeated or negative axes."""
    assert "not a permutation" in refusal("transpose", (2, 3), axes=(0, 0))
    assert "not a permutation" in refusal("transpose", (2, 3), axes=(0, -1))


@pytest.mark.parametrize(("dim1", "dim2"), [(0, 1), (1, 3), (3, 0), (2, 2), (0, 2)])
def test_swap_axis_agrees(dim1: int, dim2: int) -> None:
    """Either order."""
    check_op("SwapAxis", (2, 3, 4, 5), dim1=dim1, dim2=dim2)


@pytest.mark.parametrize("axis", [0, 1, 3, -1, -4])
def test_expand_dims_agrees(axis: int) -> None:
    """Counted in the output, from either end."""
    check_op("expand_dims", (2, 3, 4), axis=axis)


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((1, 3, 1, 4), None),
        ((2, 3, 1, 1), (2, 3)),
        ((2, 3, 1, 1), (3, 2)),
        ((2, 1, 4), 1),
        ((2, 1, 4), -2),
        ((1, 1), None),
        ((1,), 0),
        ((2, 3), None),
    ],
)
def test_squeeze_agrees(shape: tuple[int, ...], axis: Any) -> None:
    """The axes given, or all of length one; at least one axis stays."""
    check_op("squeeze", shape, **({} if axis is None else {"axis": axis}))


@pytest.mark.parametrize(
    ("axis", "begin", "end"),
    [(1, 0, 2), (1, 1, None), (-1, -3, -1), (2, 2, 5), (0, 0, 1), (3, -2, None)],
)
def test_slice_axis_agrees(axis: int, begin: int, end: int | None) -> None:
    """Limits from either end, or to the end."""
    check_op("slice_axis", (2, 3, 6, 5), axis=axis, begin=begin, end=end)


_BEGIN, _END = (st.one_of(st.none(), st.integers(-n, n)) for n in (3, 7))
_LIMITS = st.tuples(_BEGIN, _END, st.sampled_from([None, 1, 2, 3, -1, -2]))


@SWEEP
@given(
    shape=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    limits=st.lists(_LIMITS, min_size=1, max_size=4),
    stepped=st.booleans(),
)
def test_slice_agrees(shape: list[int], limits: list[Any], stepped: bool) -> None:
    """Limits and steps of either sign, missing or (but for the start) beyond the data.

    oneDNN fails on a start that is out of range, where MXNet's own kernel clamps it.
    """
    limits = limits[: len(shape)]
    begin, end, step = (list(column) for column in zip(*limits, strict=True))
    steps = step if stepped else [None] * len(limits)
    for size, limit in zip(shape, zip(begin, end, steps, strict=True), strict=False):
        assume(limit[0] is None or -size <= limit[0] < size)
        assume(len(range(*slice(*limit).indices(size))) > 0)
    attrs = {"step": tuple(step)} if stepped else {}
    check_op("slice", shape, begin=tuple(begin), end=tuple(end), **attrs)


def test_slice_that_mxnet_reads_differently_is_refused() -> None:
    """A zero step, or a result of another shape than MXNet infers."""
    attrs = {"begin": "(0,)", "end": "(2,)"}
    assert "a step of zero" in refusal("slice", (4,), out=(2,), step="(0,)", **attrs)
    assert "reads differently" in refusal("slice", (4,), out=(3,), **attrs)
    assert "unequal" in refusal("slice", (4,), out=(2,), begin="(0, 0)", end="(2, 2)")
    assert "not understood" in refusal("slice", (4,), out=(2,), begin="(a,)", end="(2,)")


@pytest.mark.parametrize(
    ("shape", "attrs"),
    [
        ((2, 6, 3), {"num_outputs": 3}),
        ((2, 3, 4), {"num_outputs": 3, "squeeze_axis": True}),
        ((2, 3, 4), {"num_outputs": 4, "axis": -1}),
        ((2, 3, 4), {"num_outputs": 2, "axis": 0, "squeeze_axis": 1}),
        ((2, 3, 4), {"num_outputs": 1}),
        ((2, 1, 4), {"num_outputs": 1, "squeeze_axis": True}),
    ],
)
def test_slice_channel_agrees_on_every_output(
    shape: tuple[int, ...], attrs: dict[str, Any]
) -> None:
    """Equal parts along the channels by default, the axis dropped if asked."""
    check_op("SliceChannel", shape, **attrs)


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect"])
@pytest.mark.parametrize(
    ("shape", "width"),
    [((2, 3, 4, 5), (0, 0, 0, 0, 1, 2, 3, 0)), ((1, 2, 3, 4, 5), (0,) * 4 + (1, 2, 0, 1, 2, 2))],
)
def test_pad_agrees(mode: str, shape: tuple[int, ...], width: tuple[int, ...]) -> None:
    """Height, width and depth, each side by itself."""
    value = {"constant_value": 1.5} if mode == "constant" else {}
    check_op("Pad", shape, mode=mode, pad_width=width, **value)


def test_pad_with_zeros_is_the_default() -> None:
    """constant_value may be missing."""
    check_op("Pad", (1, 1, 2, 2), mode="constant", pad_width=(0, 0, 0, 0, 1, 1, 1, 1))


@pytest.mark.parametrize(
    ("reason", "attrs"),
    [
        ("mode=wrap is not known", {"mode": "wrap"}),
        ("pad_width has 2 values", {"pad_width": (1, 1)}),
        ("a negative pad_width", {"pad_width": (0, 0, 0, 0, -1, 0, 0, 0)}),
        ("a reflection wider", {"mode": "reflect", "pad_width": (0, 0, 0, 0, 4, 0, 0, 0)}),
    ],
)
def test_pad_that_would_differ_is_refused(reason: str, attrs: dict[str, Any]) -> None:
    """The message says why."""
    defaults = {"mode": "constant", "pad_width": (0, 0, 0, 0, 1, 1, 1, 1)}
    assert reason in refusal("Pad", (1, 1, 4, 4), **(defaults | attrs))


def test_a_network_that_splits_and_joins_agrees() -> None:
    """Two outputs of one node, joined in the other order: a channel shuffle."""
    parts = symbol("SliceChannel", mx.sym.var("x"), name="parts", num_outputs=2)
    sym = symbol("Concat", parts[1], parts[0], name="joined", num_args=2)
    sym = symbol("Reshape", sym, name="split", shape=(0, -4, 2, -1, -2))
    sym = symbol("SwapAxis", sym, name="swapped", dim1=1, dim2=2)
    sym = symbol("Reshape", sym, name="merged", shape=(0, -3, -2))
    check(sym, {"x": data(0, 2, 6, 3, 3)})
