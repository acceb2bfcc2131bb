"""Values made from attributes or shapes are MXNet's, in every dtype."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.converters import check, data, mx, refusal, symbol, to_onnx

import mxtrt.convert.ops

DTYPES = ["float32", "int32", "int64", "int8", "uint8"]


def check_created(op: str, **attrs: Any) -> None:
    """A created value chooses among others: a graph needs an input."""
    made = symbol(op, name="made", **attrs)
    _, (shape,), _ = made.infer_shape()
    _, (dtype,), _ = made.infer_type()
    condition, other = np.arange(np.prod(shape)).reshape(shape) % 3, np.full(shape, 7, dtype)
    sym = symbol("where", mx.sym.var("x"), made, mx.sym.var("w"))
    check(sym, {"x": condition.astype(np.float32), "w": other}, tolerance=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_creation_agrees(dtype: str) -> None:
    """Fractions are dropped where the dtype is an integer's, before a range is computed."""
    for op in ("_zeros", "_ones"):
        check_created(op, shape=(2, 3), dtype=dtype)
    check_created("_full", shape=(2, 3), value=2.75, dtype=dtype)
    check_created("_eye", N=3, M=5, k=-1, dtype=dtype)
    check_created("_arange", start=1.5, stop=9, step=1.5, repeat=2, dtype=dtype)
    check_created("_arange", start=4, dtype=dtype)
    check_created("_linspace", start=0, stop=10, num=4, endpoint=False, dtype=dtype)


def test_a_number_that_does_not_fit_is_refused() -> None:
    """What C++ makes of it is not defined."""
    assert "does not fit into uint8" in refusal("_full", (2,), dtype="uint8", value=-1)


def test_likes_take_nothing_but_the_shape() -> None:
    """NaN and infinity are not multiplied by zero."""
    x = np.array([[np.nan, np.inf, 1]], np.float32)
    for op in ("zeros_like", "ones_like"):
        check(symbol(op, mx.sym.var("x")), {"x": x})
    check(symbol("_npi_full_like", mx.sym.var("x"), fill_value=3.7, dtype="int64"), {"x": x})


@pytest.mark.parametrize("attrs", [{}, {"axis": 0}, {"axis": -1}, {"axis": 1, "repeat": 2}])
def test_arange_like_agrees(attrs: dict[str, Any]) -> None:
    """As long as an axis, or as all of them; a step of 0.1 is multiplied, not summed up."""
    sym = symbol("_contrib_arange_like", mx.sym.var("x"), start=3, step=0.1, **attrs)
    check(sym, {"x": data(0, 50, 41)}, tolerance=0)


def test_shapes_agree() -> None:
    """int64 in both."""
    for op in ("shape_array", "size_array"):
        sym = symbol(op, mx.sym.var("x"))
        converted = check(sym, {"x": data(0, 2, 3, 4)}, tolerance=0)
        assert converted.model.graph.output[0].type.tensor_type.elem_type == 7


def test_of_some_inputs_only_the_shape_is_read() -> None:
    """What a converter declares is what it emits: no other ONNX operator reads such an input."""
    pictures = [(1, 2, 6, 6), (1, 2, 3, 3)]
    resize = "_contrib_BilinearResize2D"
    shapes = {"Crop": pictures, resize: pictures, "broadcast_like": [(1, 3), (4, 3)]}
    shapes["_contrib_MultiBoxPrior"] = pictures[:1]
    attrs = {"Crop": {"num_args": 2}, "_npi_full_like": {"fill_value": 1}, resize: {"mode": "like"}}
    for name, entry in mxtrt.convert.ops.registry().items():
        if not entry.shape_only:
            continue
        given = shapes.get(name, [(4, 3), (4, 3)] if 1 in entry.shape_only else [(4, 3)])
        names = ["x", "y"][: len(given)]
        sym = symbol(name, *map(mx.sym.var, names), **attrs.get(name, {}))
        arrays = {n: data(0, *shape) for n, shape in zip(names, given, strict=True)}
        graph = to_onnx(sym, arrays, names).model.graph
        for index in entry.shape_only:
            readers = {node.op_type for node in graph.node if names[index] in node.input}
            assert readers <= {"Shape", "Size"}, name
