"""The models that the builder writes."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from mxtrt.convert.onnx_builder import OnnxBuilder


@pytest.mark.parametrize("shape", [(), (1,), (2, 3)])
def test_a_constant_keeps_its_shape(shape):
    """Also one without axes, which Gather and Range read as a scalar."""
    array = np.full(shape, 7, np.int64)
    builder = OnnxBuilder()
    name = builder.constant(array)
    (tensor,) = builder.model([], []).graph.initializer
    assert tensor.name == name
    np.testing.assert_array_equal(numpy_helper.to_array(tensor), array, strict=True)


def test_equal_constants_are_stored_once():
    """Other values, shapes and dtypes are not equal."""
    builder = OnnxBuilder()
    arrays = [np.zeros((2, 3)), np.zeros((3, 2)), np.zeros((2, 3), np.int64), np.ones((2, 3))]
    names = {builder.constant(array) for array in (*arrays, np.zeros((3, 2)).T)}
    assert len(names) == len(arrays)


def test_a_loop_hands_its_state_on():
    """Powers of two; what the body leaves alone goes round too."""
    builder = OnnxBuilder()
    integer = np.dtype(np.int64)

    def body(run, state):
        total, step = state
        twice = builder.fresh("twice")
        builder.node("Mul", [total, builder.constant(np.array(2))], [twice])
        more = builder.fresh("more")
        builder.node("Add", [twice, run], [more])
        return [more, step]

    given = builder.constant(np.array(5))
    total, step = builder.loop("doubling", "count", [("x", integer), (given, integer)], body)
    edges = [("count", [], integer), ("x", [], integer)]
    model = builder.model(edges, [(total, [], integer), (step, [], integer)])
    onnx.checker.check_model(model, full_check=True)
    session = ort.InferenceSession(model.SerializeToString())
    assert session.run(None, {"count": np.array(3), "x": np.array(1)}) == [12, 5]
    assert session.run(None, {"count": np.array(0), "x": np.array(1)}) == [1, 5]


def test_a_loop_reads_only_what_it_is_given():
    """Passes that rename values do not look inside; what follows belongs to the model again."""
    builder = OnnxBuilder()

    def body(run, state):
        builder.node("Add", [state[0], "x"], ["sum"])
        return ["sum"]

    with pytest.raises(ValueError, match=r"doubling reads \['x'\]"):
        builder.loop("doubling", "count", [("y", np.dtype(np.float32))], body)
    assert builder.nodes == []
    builder.constant(np.zeros(2))
    assert len(builder.model([], []).graph.initializer) == 1
