"""Integers go into engines, between them and out of them as they are."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from mxnet import gluon

import mxtrt

DTYPES = ["int8", "uint8", "int32", "int64"]


def lookup() -> mx.sym.Symbol:
    """Rows of a table, by an index that is a weight; reversed in MXNet; ordered."""
    table, index = mx.sym.var("table"), mx.sym.var("index", shape=(4,), dtype="int32")
    rows = mx.sym.take(table, index, name="rows")
    turned = mx.sym.reverse(rows, axis=1, name="turned")
    ordered = mx.sym.sort(turned, axis=1, name="ordered")
    first = mx.sym.slice_axis(ordered, axis=1, begin=0, end=1, name="first")
    hot = mx.sym.one_hot(first, depth=100, dtype="float32", name="hot")
    return mx.sym.Group([ordered, hot, mx.sym.argsort(turned, axis=1, dtype="int32")])


def values(dtype: str, rows: int = 5, seed: int = 0) -> np.ndarray:
    """A table that float32 does not hold where the dtype is wider."""
    top = {"int8": 127, "uint8": 255, "int32": 2**31 - 1, "int64": 2**62}[dtype]
    random = np.random.default_rng(seed)
    return random.integers(top // 2, top, (rows, 6), dtype=np.int64).astype(dtype)


def array(content: np.ndarray) -> mx.nd.NDArray:
    """The content in MXNet, which takes float32 for whatever has no dtype."""
    return mx.nd.array(content, dtype=content.dtype)


INDEX = np.array([4, -1, 2, 9], np.int32)


def expected(table: np.ndarray) -> list[np.ndarray]:
    """The heads in NumPy."""
    turned = table[np.clip(INDEX, 0, len(table) - 1)][:, ::-1]
    ordered = np.sort(turned, 1)
    hot = (ordered[:, :1, None] == np.arange(100)).astype(np.float32)
    return [ordered, hot, np.argsort(turned, 1, kind="stable").astype(np.int32)]


def assert_equal(heads: list[mx.nd.NDArray], table: np.ndarray) -> None:
    """To the last bit, and in the same dtypes."""
    for head, known in zip(heads, expected(table), strict=True):
        assert head.dtype == known.dtype
        np.testing.assert_array_equal(head.asnumpy(), known)


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_executor_takes_and_gives_integers(dtype):
    """Engines before and after an MXNet operator, from simple_bind; then other values."""
    types = {"table": dtype, "index": "int32"}
    with mxtrt.options(deny_ops=("reverse",), allow_ops=("take", "argsort")):
        executor = lookup().simple_bind(mx.cpu(), grad_req="null", type_dict=types, table=(5, 6))
    executor.copy_params_from({"index": array(INDEX)})
    for seed in (0, 1):
        table = values(dtype, seed=seed)
        assert_equal(executor.forward(table=array(table)), table)
    report = mxtrt.last_report()
    assert [segment.built for segment in report.segments] == [True, True, True]
    assert [node.name for node in report.left] == ["turned"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_block_takes_and_gives_integers(dtype):
    """Hybridized, with another number of rows at the second call."""
    block = gluon.SymbolBlock(lookup(), [mx.sym.var("table")])
    (parameter,) = block.collect_params().values()
    parameter.cast("int32")
    parameter._load_init(array(INDEX), mx.cpu())
    block.hybridize(static_alloc=True, static_shape=True)
    for rows in (5, 7):
        table = values(dtype, rows)
        with mxtrt.options(deny_ops=("reverse",), allow_ops=("take", "argsort")):
            assert_equal(block(array(table)), table)
    assert mxtrt.last_report().nodes_in_engine == 5
