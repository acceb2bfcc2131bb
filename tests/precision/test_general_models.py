"""Models for many input shapes at other precisions: what holds, and what does not."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import mxnet as mx
import numpy as np
import onnx
import pytest
from support.segments import segments_of

from mxtrt import config
from mxtrt.convert.general import generalize
from mxtrt.convert.segment import OnnxSegment
from mxtrt.engines import Weight
from mxtrt.graph.symbol import Shapes, TensorType
from mxtrt.precision import Retyped, retyped

DATA = mx.sym.var("data")
UNITS = 16


def dense(x: mx.sym.Symbol, name: str = "dense", units: int = 8) -> mx.sym.Symbol:
    """A layer over the last axis."""
    return mx.sym.FullyConnected(x, num_hidden=units, flatten=False, name=name)


def places(x: mx.sym.Symbol, axis: int, shape: tuple[int, ...]) -> mx.sym.Symbol:
    """The places on an axis."""
    return mx.sym.reshape(mx.sym.contrib.arange_like(x, axis=axis), shape=shape)


def encoder() -> mx.sym.Symbol:
    """Attention over a sequence with places added."""
    x = mx.sym.broadcast_add(DATA, places(DATA, 0, (-1, 1, 1)) * 0.1)
    qkv = dense(x, "qkv", 3 * UNITS)
    weights = mx.sym.softmax(mx.sym.contrib.interleaved_matmul_selfatt_qk(qkv, heads=2))
    mixed = mx.sym.contrib.interleaved_matmul_selfatt_valatt(qkv, weights, heads=2)
    return dense(mixed, "out", UNITS)


def convolution() -> mx.sym.Symbol:
    """A layer over pictures."""
    return mx.sym.Convolution(DATA, kernel=(3, 3), num_filter=8, pad=(1, 1), name="conv")


class Sized:
    """A symbol that is one segment at any size of its input, with weights."""

    def __init__(self, symbol: mx.sym.Symbol, at: Callable[[int], tuple[int, ...]]) -> None:
        self.symbol, self.at = symbol, at
        random = np.random.RandomState(0)
        arguments, _, _ = symbol.infer_shape(data=at(6))
        self.arrays = {
            name: mx.nd.array(random.uniform(-1, 1, shape))
            for name, shape in zip(symbol.list_arguments(), arguments, strict=True)
            if name != "data"
        }

    def wide(self, shapes: Shapes) -> tuple[Shapes, OnnxSegment]:
        """In float32."""
        (segment,) = segments_of(self.symbol, {"data": shapes[0]}, prefer="engine")
        return tuple(self.symbol.infer_shape(data=shapes[0])[1]), segment

    def half(self, shapes: Shapes) -> tuple[Shapes, OnnxSegment]:
        """Converted, then retyped."""
        outputs, segment = self.wide(shapes)
        return outputs, self.retyped(segment, shapes).segment

    def retyped(self, segment: OnnxSegment, shapes: Shapes) -> Retyped:
        """A model in float16, where values are looked at with inputs of some shapes."""
        engine: Any = SimpleNamespace(name="an engine", computes_float16=True)
        weights = [Weight.of(weight, self.arrays[weight.name]) for weight in segment.weights]
        inputs = [TensorType(shape, np.dtype(np.float32)) for shape in shapes]
        options = config.current().replace(precision="fp16")
        return retyped(segment, weights, inputs, engine, options)

    def run(self, segment: OnnxSegment, data: Any) -> Any:
        """What ONNX Runtime makes of a model."""
        onnxruntime = pytest.importorskip("onnxruntime")
        model = onnx.load_model_from_string(segment.model)
        for tensor in model.graph.initializer:
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                values = self.arrays[tensor.name].asnumpy()
                tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
        session = onnxruntime.InferenceSession(model.SerializeToString())
        return session.run(None, {"data": data})[0]


SEQUENCES, PICTURES = (lambda size: (2, size, 8)), (lambda size: (1, 3, size, size + 2))


@pytest.mark.parametrize(
    "sized",
    [
        Sized(mx.sym.reshape(dense(DATA), shape=(0, 0, -4, 2, -1)), SEQUENCES),
        Sized(mx.sym.repeat(dense(DATA), repeats=3, axis=1), SEQUENCES),
        Sized(mx.sym.broadcast_add(dense(DATA), places(DATA, 1, (1, -1, 1))), SEQUENCES),
        Sized(mx.sym.contrib.BilinearResize2D(convolution(), height=9, width=7), PICTURES),
        Sized(encoder(), lambda size: (size, 2, UNITS)),
    ],
    ids=["reshape", "repeat", "arange_like", "resize", "encoder"],
)
def test_retyping_and_generalizing_commute_where_values_stay_small(sized: Sized) -> None:
    """To the bit: the retyped general model, the generalized retyped ones, and each of these."""
    seen = [(sized.at(6),), (sized.at(9),)]
    wide, half = generalize(sized.wide, seen), generalize(sized.half, seen)
    assert wide is not None
    assert half is not None
    for size in (3, 6, 7, 20):
        shapes = (sized.at(size),)
        outputs, direct = sized.half(shapes)
        assert half.covers(shapes, outputs, direct)
        data = np.random.RandomState(size).uniform(-1, 1, shapes[0]).astype(np.float32)
        expected = sized.run(direct, data)
        for model in (sized.retyped(wide.model, shapes).segment, half.model):
            assert np.array_equal(sized.run(model, data), expected)


def test_what_fits_float16_depends_on_the_sizes() -> None:
    """A model that was retyped at one size is not for all: each size has to be looked at."""
    x = dense(DATA * 4)
    product = mx.sym.batch_dot(x, x, transpose_a=True)  # over the axis that changes
    sized = Sized(mx.sym.broadcast_add(product, mx.sym.mean(places(DATA, 1, (-1,)))), SEQUENCES)
    general = generalize(sized.wide, [(sized.at(6),), (sized.at(9),)])
    assert general is not None
    notes = [sized.retyped(general.model, (sized.at(size),)).notes for size in (6, 20, 4000)]
    assert not notes[0]
    assert not notes[1]
    assert "values get larger than float16 holds" in notes[2][0]


def test_int8_knows_a_model_by_its_constants() -> None:
    """Ranges are of a structure, which what is computed in front of a model changes."""
    from mxtrt.precision.apply import folded
    from mxtrt.precision.ranges import structure_of

    sized = Sized(mx.sym.reshape(dense(DATA), shape=(0, 0, -4, 2, -1)), SEQUENCES)
    general = generalize(sized.wide, [(sized.at(6),), (sized.at(9),)])
    assert general is not None

    def structure(segment: OnnxSegment) -> str:
        weights = [Weight.of(weight, sized.arrays[weight.name]) for weight in segment.weights]
        return structure_of(folded(segment, weights))

    directs = [structure(sized.wide((sized.at(size),))[1]) for size in (6, 20)]
    assert directs[0] == directs[1] != structure(general.model)
