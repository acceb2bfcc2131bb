"""Reductions compute what MXNet computes."""

from __future__ import annotations

from typing import Any

import pytest
from harness import SWEEP, check_op, refusal
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize("op", ["sum", "mean", "max", "min", "prod"])
def test_reductions_agree_over_their_attributes(op: str) -> None:
    """Any axes from either end, none, or all but those given; kept or dropped."""

    @SWEEP
    @given(
        shape=st.lists(st.integers(1, 4), min_size=1, max_size=4),
        picked=st.one_of(st.none(), st.sets(st.integers(0, 3), max_size=4)),
        negative=st.booleans(),
        keepdims=st.booleans(),
        exclude=st.booleans(),
    )
    def sweep(
        shape: list[int], picked: set[int] | None, negative: bool, keepdims: bool, exclude: bool
    ) -> None:
        attrs: dict[str, Any] = {"keepdims": keepdims}
        if picked is not None:
            axes = sorted({axis % len(shape) for axis in picked})
            attrs["exclude"] = exclude and 0 < len(axes) < len(shape)
            attrs["axis"] = tuple(axis - len(shape) if negative else axis for axis in axes)
        check_op(op, shape, **attrs)

    sweep()


def test_a_single_axis_may_be_a_plain_number() -> None:
    """axis=1 as gluon writes it."""
    check_op("mean", (2, 3, 4), axis=1)
    check_op("sum", (2, 3, 4), axis=-1, keepdims=True)


def test_reductions_of_no_axis_are_refused() -> None:
    """There is nothing to reduce when all is excluded, and nothing given to exclude."""
    assert refusal("sum", (2, 3), out=(1,), exclude=True) == "exclude without axis"
    assert refusal("sum", (2, 3), axis=(0, 1), exclude=True) == "exclude of every axis"
    assert "on rank 2" in refusal("sum", (2, 3), axis=2)
