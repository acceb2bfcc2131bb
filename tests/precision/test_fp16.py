"""``precision="fp16"``."""

from __future__ import annotations

from typing import Any

import mxnet as mx
import numpy as np
import onnx
import pytest
from support.networks import classifier, images, parameters
from support.segments import Segment, arrays_of

import mxtrt
from mxtrt import config
from mxtrt.engines import BuildRequest
from mxtrt.graph.symbol import TensorType

HALF, SINGLE = "FLOAT16", "FLOAT"


def dense(**more: Any) -> Any:
    """A dense layer and a relu."""
    return mx.sym.relu(mx.sym.FullyConnected(mx.sym.var("data"), num_hidden=8, name="dense"))


def test_products_are_float16_and_the_edges_are_not():
    """With one owner of the weights, the model."""
    symbol = classifier()
    shapes = {"data": (2, 3, 16, 16), "softmax_label": (2,)}
    found = Segment(symbol, arrays_of(symbol, **shapes), **shapes).retyped()
    assert not found.notes
    assert not found.weights
    operators = ("Conv", "Relu", "MaxPool", "Flatten", "Gemm")
    assert {found.types[op] for op in operators} == {HALF}
    assert found.types["Softmax"] == SINGLE
    assert "BatchNormalization" not in found.types
    for value in (*found.model.graph.input, *found.model.graph.output):
        assert value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    sizes = [t.dims for t in found.model.graph.initializer if len(t.dims) > 1]
    assert len(sizes) == len(set(map(tuple, sizes))) == 2


def test_a_layer_normalisation_stays_float32():
    """Centred values and their squares too."""
    symbol = mx.sym.LayerNorm(dense(), name="norm")
    found = Segment(symbol, arrays_of(symbol, data=(4, 6)), data=(4, 6)).retyped()
    assert found.types["Gemm"] == HALF
    assert {found.types[op] for op in ("ReduceMean", "Sub", "Pow", "Sqrt", "Div")} == {SINGLE}


def test_places_of_a_sampler_stay_float32():
    """From the layer on that learned the offsets; what it reads there is multiplied in float16."""
    data = mx.sym.var("data")
    offset = mx.sym.Convolution(data, kernel=(3, 3), pad=(1, 1), num_filter=18, name="offset")
    attrs = {"kernel": (3, 3), "pad": (1, 1), "num_filter": 4}
    symbol = mx.sym.contrib.DeformableConvolution(data, offset, name="deformed", **attrs)
    shape = (2, 4, 8, 8)
    found = Segment(symbol, arrays_of(symbol, data=shape), data=shape).retyped()
    assert {found.types[op] for op in ("Add", "Sub", "Min", "GridSample")} == {SINGLE}
    assert found.types["Conv"] == HALF


@pytest.mark.parametrize(
    ("factor", "reason"),
    [(1e6, "dense_weight reaches 7"), (1e-8, "dense_weight is too small for float16")],
)
def test_weights_that_do_not_fit_keep_their_layer_in_float32(factor, reason):
    """And the note names the layer and the weight."""
    arrays = arrays_of(dense(), data=(4, 6))
    arrays["dense_weight"] *= factor
    found = Segment(dense(), arrays, data=(4, 6)).retyped()
    assert found.types["Gemm"] == SINGLE
    (note,) = (note for note in found.notes if "dense_weight" in note)
    assert note.startswith(f"dense in float32: {reason}")


def test_values_that_float16_does_not_resolve_stay_float32():
    """A network whose values shrink from layer to layer has no float16 answer but zero."""
    net = mx.gluon.nn.HybridSequential()
    for _ in range(6):
        net.add(mx.gluon.nn.Conv2D(16, 3, padding=1, groups=16, in_channels=16))
    net.initialize(mx.init.Normal(0.01))
    x = mx.nd.random.normal(shape=(1, 16, 8, 8))
    expected = net(x).asnumpy()
    assert np.abs(expected).max() < 2**-24
    with mxtrt.options(precision="fp16"):
        net.hybridize()
        seen = net(x).asnumpy()
    (segment,) = mxtrt.last_report().segments
    assert any("smaller than float16 resolves" in note for note in segment.notes)
    assert np.abs(seen - expected).max() <= 2e-3 * np.abs(expected).max()


def test_made_up_data_are_indices_that_are_there():
    """Boxes name their picture by a number in floating point; there is one picture."""
    symbol = mx.sym.contrib.ROIAlign(
        mx.sym.var("data"), mx.sym.var("boxes"), pooled_size=(2, 2), spatial_scale=1.0
    )
    shapes = {"data": (1, 2, 8, 8), "boxes": (40, 5)}
    made = Segment(symbol, {}, **shapes).retyped()
    assert not [note for note in made.notes if "not looked for" in note]


def test_answers_are_those_of_float32_to_float16s_precision():
    """Through a bind; the option and its environment variable are one."""
    symbol, x = classifier(), images()
    args, aux = parameters(symbol, data=x.shape)
    args = {**args, "data": mx.nd.array(x), "softmax_label": mx.nd.zeros(x.shape[0])}
    answers = []
    for options in ({"enabled": False}, {"precision": "fp16"}):
        with mxtrt.options(**options):
            executor = symbol.bind(mx.cpu(), args, aux_states=aux, grad_req="null")
            answers.append(executor.forward()[0].asnumpy())
    assert 0 < np.abs(answers[0] - answers[1]).max() < 5e-3


def test_a_float16_network_needs_no_casts_in_an_engine_with_float16():
    """They are undone, whatever the option says."""
    symbol = mx.sym.relu(
        mx.sym.FullyConnected(mx.sym.var("data", dtype="float16"), num_hidden=8, name="dense")
    )
    arrays = arrays_of(symbol, data=(4, 6))
    segment = Segment(symbol, {n: a.astype("float16") for n, a in arrays.items()}, data=(4, 6))
    segment.inputs = [TensorType((4, 6), np.dtype(np.float16))]
    found = segment.retyped(precision="fp32")
    assert "Cast" not in found.types
    assert {found.types["Gemm"], found.types["Relu"]} == {HALF}
    left = segment.retyped(precision="fp32", float16=False)
    assert left.types["Gemm"] == SINGLE


@pytest.mark.parametrize("symbol", [classifier(), mx.sym.LayerNorm(dense())])
def test_tensorrt_builds_the_model(symbol):
    """Strongly typed, for a GPU that need not be there."""
    pytest.importorskip("tensorrt_rtx")
    from mxtrt.engines.tensorrt.api import load_api
    from mxtrt.engines.tensorrt.builder import blueprint, build_plan, canonical, is_typed

    api = load_api("tensorrt_rtx")
    shapes = {n: {"data": (2, 3, 16, 16)}.get(n, (2,)) for n in ("data", "softmax_label")}
    shapes = {n: s for n, s in shapes.items() if n in symbol.list_arguments()}
    segment = Segment(symbol, arrays_of(symbol, **shapes), **shapes)
    found = segment.retyped()
    _, outputs, _ = symbol.infer_shape(**shapes)
    types = [TensorType(tuple(outputs[0]), np.dtype(np.float32))]
    options = config.current().replace(precision="fp16")
    request = canonical(BuildRequest(found.segment, found.weights, segment.inputs, types, options))
    wanted = blueprint(request, (8, 6))
    assert is_typed(wanted.model)
    plan, _ = build_plan(api, wanted)
    assert len(plan) > 1000
