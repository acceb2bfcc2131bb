"""The models that the builder writes."""

from __future__ import annotations

import numpy as np
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
