"""The elements that are chosen are those that MXNet chooses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.converters import Arrays, Converted, check, data, mx, refusal, run_mxnet, symbol

NAN = float("nan")


def chosen(op: str, *arrays: Any, **attrs: Any) -> Converted:
    """Assert that both choose the same elements of the first of some arrays, all of them fed."""
    names = ["x", "y", "z"][: len(arrays)]
    given: Arrays = {name: np.asarray(array) for name, array in zip(names, arrays, strict=True)}
    return check(symbol(op, *map(mx.sym.var, names), **attrs), given, names, tolerance=0)


@pytest.mark.parametrize("dtype", ["float32", "int32", "int64", "int8", "uint8"])
@pytest.mark.parametrize("attrs", [{}, {"mode": "wrap"}, {"axis": -1}, {"axis": 1, "mode": "wrap"}])
def test_take_agrees(dtype: str, attrs: dict[str, Any]) -> None:
    """Indices are truncated, then clipped or wrapped: -0.5 is 0 and -1 is the last or the first."""
    index = np.array([[0, 1.9, 3, 200], [-0.5, -1, -4.9, 7]])
    index = np.abs(index) if dtype == "uint8" else np.clip(index, -128, 127)
    chosen("take", data(0, 3, 2, 4), index.astype(dtype), **attrs)


@pytest.mark.parametrize("dtype", ["int32", "int64", "int8", "uint8"])
def test_integers_are_chosen_as_they_are(dtype: str) -> None:
    """Not by way of float32, which does not hold them all."""
    x = np.array([[1, 2, 3], [125, 6, 7]], dtype)
    if dtype == "int64":
        x += 2**40
    elif dtype == "int32":
        x += 2**30
    chosen("take", x, np.float32([1, 0]))
    chosen("pick", x, np.float32([2, 0]))
    chosen("where", x % 2, x, x + 1)
    chosen("sort", x, is_ascend=False)
    chosen("topk", x, k=2, ret_typ="both", dtype="int32")
    chosen("diag", x[0], k=1)


def test_an_index_that_is_to_raise_is_refused() -> None:
    """An engine cannot raise an error."""
    assert "mode=raise" in refusal("take", (3,), (2,), mode="raise")


@pytest.mark.parametrize(
    ("index", "attrs"),
    [
        ((2, 4), {"axis": 1}),
        ((2, 1, 4), {"axis": 1}),
        ((2, 3), {"keepdims": True, "mode": "wrap"}),
        ((3, 4), {"axis": -3}),
    ],
)
def test_pick_agrees(index: tuple[int, ...], attrs: dict[str, Any]) -> None:
    """With the index's axis or without it, in and out of range."""
    chosen("pick", data(0, 2, 3, 4), data(1, *index, low=-6, high=6), **attrs)


def test_batch_take_agrees_on_two_axes() -> None:
    """On more MXNet mistakes the sizes."""
    chosen("batch_take", data(0, 3, 4), np.int32([3, -1, 9]))
    assert "rank 3" in refusal("batch_take", (2, 3, 4), (2, 3), out=(2, 3))


def test_gather_nd_agrees() -> None:
    """From either end; MXNet adds the size to a fraction before it truncates."""
    x = data(0, 3, 4, 2)
    chosen("gather_nd", x, np.float32([[0, -1, 2], [-0.5, 1.5, -4]]))
    chosen("gather_nd", x, np.int32([[0, -1, -3], [-4, 3, 0], [1, -1, 0]]))
    chosen("gather_nd", x, np.uint8([[[2, 0], [1, 1]]]))


def test_index_copy_agrees() -> None:
    """Several rows, in any order."""
    chosen("_contrib_index_copy", data(0, 5, 3), np.int64([4, 0, 2]), data(1, 3, 3))


@pytest.mark.parametrize("dtype", ["float32", "int32", "int8", "uint8"])
def test_one_hot_agrees(dtype: str) -> None:
    """An index that is out of range, negative too, is off everywhere; -0.5 is 0."""
    index = np.float32([[-1, -0.5, 0], [1.9, 3, 4]])
    chosen("one_hot", index, depth=4, dtype=dtype)
    chosen("one_hot", index, depth=4, dtype=dtype, on_value=2.5, off_value=3)


@pytest.mark.parametrize("dtype", ["float32", "int32", "int64", "int8", "uint8"])
def test_where_agrees(dtype: str) -> None:
    """A NaN and a fraction are not zero, a zero of either sign is."""
    x, y = np.arange(6).reshape(6, 1).astype(dtype), np.full((6, 1), 9, dtype)
    condition = np.float32([NAN, 0.25, 0, -0.0, 1e-45, -1])
    chosen("where", condition.reshape(6, 1), x, y)
    chosen("where", condition, x, y)
    chosen("_npi_where", condition, x.reshape(6), y)


@pytest.mark.parametrize("op", ["argmax", "argmin"])
@pytest.mark.parametrize("attrs", [{}, {"axis": 1}, {"axis": -1, "keepdims": 1}, {"keepdims": 1}])
def test_search_agrees(op: str, attrs: dict[str, Any]) -> None:
    """The first of equal elements, as float32; over all axes the place in memory."""
    chosen(op, np.round(data(0, 3, 7, 5)), **attrs)
    chosen(op, np.int32(data(0, 3, 7, 5)), **attrs)
    chosen(op, np.float32([2, 5, 5, 2]), **(attrs and {"axis": 0}))


@pytest.mark.parametrize("op", ["argmax", "argmin"])
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_a_nan_is_found_by_a_search(op: str, axis: int | None) -> None:
    """The first one, beside infinities too, wherever it is in a row of any length."""
    for size in (1, 2, 9, 33):
        for place in {0, size // 2, size - 1}:
            x = np.round(data(size, 4, size))
            x[0, place] = x[2, place] = x[2, -1] = NAN
            x[1, 0] = -np.inf
            x[1, -1] = np.inf
            chosen(op, x, axis=axis)


def test_argmax_channel_agrees() -> None:
    """Along the second axis."""
    x = np.round(data(0, 3, 7, 5))
    chosen("argmax_channel", x)
    x[1, 3] = NAN
    chosen("argmax_channel", x)


@pytest.mark.parametrize("axis", [None, 0, -1])
@pytest.mark.parametrize("ascending", [False, True])
def test_order_agrees(axis: int | None, ascending: bool) -> None:
    """Values, places in several dtypes, masks; of up to sixteen equal elements the first first."""
    x = np.round(data(0, 4, 4))
    attrs = {"axis": axis, "is_ascend": ascending}
    chosen("sort", x, **attrs)
    chosen("argsort", x, dtype="int64", **attrs)
    for kind in ("value", "indices", "both", "mask"):
        chosen("topk", x, k=3, ret_typ=kind, **attrs)
    chosen("topk", x, k=0, ret_typ="both", dtype="uint8", **attrs)


@pytest.mark.parametrize("ascending", [False, True])
@pytest.mark.parametrize("size", [1, 7, 8, 16])
def test_every_order_of_equal_elements_that_is_accepted_is_that_of_mxnet(
    size: int, ascending: bool
) -> None:
    """For every k, with equal elements among which the limit falls: MXNet's sort moves some."""
    for seed in range(8):
        x = np.random.default_rng(seed).integers(0, 3, (5, size)).astype(np.float32)
        for k in range(1, size + 1):
            if (size, k) != (16, 2):
                chosen("topk", x, k=k, ret_typ="both", is_ascend=ascending)


@pytest.mark.parametrize("kind", ["indices", "both", "mask"])
def test_places_that_mxnets_sort_leaves_equal_elements_in_are_refused(kind: str) -> None:
    """Of more than sixteen, and of sixteen where it looks for two; one is the first of all."""
    for size, k in ((17, 0), (17, 3), (17, 17), (400, 2), (16, 2)):
        assert "equal elements" in refusal("topk", (2, size), k=k, ret_typ=kind)
    x = np.round(data(0, 3, 400))
    chosen("topk", x, ret_typ=kind)
    chosen("topk", x, ret_typ=kind, is_ascend=True)


def test_places_of_many_equal_elements_stay_in_mxnet() -> None:
    """Its order is not the first first, which is that of engines; the values are the same."""
    assert "equal elements" in refusal("argsort", (2, 40))
    x = np.zeros((2, 40), np.float32)
    (places,) = run_mxnet(symbol("argsort", mx.sym.var("x")), {"x": x})
    assert not np.array_equal(places, np.tile(np.arange(40), (2, 1)))
    chosen("topk", x, k=5, ret_typ="value")
    chosen("sort", np.round(data(0, 3, 40)))


@pytest.mark.parametrize("k", [0, 2, -1])
@pytest.mark.parametrize("attrs", [{}, {"axis1": 2, "axis2": 0}, {"axis1": -1, "axis2": 1}])
def test_diag_agrees(k: int, attrs: dict[str, Any]) -> None:
    """Of two axes, or into a matrix; no NaN is multiplied by zero."""
    chosen("diag", data(0, 3, 4, 5), k=k, **attrs)
    chosen("diag", np.float32([1, NAN, 3]), k=k)
