"""Operators that MXNet computes faster than ONNX Runtime on a CPU stay there."""

from __future__ import annotations

import json

import mxnet as mx
import numpy as np
import pytest
from support.networks import assert_close, parameters, plain

import mxtrt
from mxtrt.convert.ops.slower import RULES
from mxtrt.engines import cores
from mxtrt.engines.tensorrt import TensorRT
from mxtrt.offline.inspection import typed_graph
from mxtrt.plan.analysis import analyse

DATA = mx.sym.var("data")


def conv(kernel, **attrs):
    """A convolution."""
    return mx.sym.Convolution(DATA, kernel=kernel, num_filter=4, name="op", **attrs)


def deconv(kernel, **attrs):
    """A transposed convolution."""
    return mx.sym.Deconvolution(DATA, kernel=kernel, num_filter=4, name="op", **attrs)


def pooling(**attrs):
    """Pooling by windows of two."""
    return mx.sym.Pooling(DATA, kernel=(2, 2), name="op", **attrs)


def dense(units, **attrs):
    """A dense layer for each row."""
    return mx.sym.FullyConnected(DATA, num_hidden=units, flatten=False, name="op", **attrs)


def recurrent(mode, size):
    """A recurrent layer on two sequences."""
    return mx.sym.RNN(
        DATA,
        mx.sym.var("op_parameters"),
        *[mx.sym.zeros((1, 2, size))] * (2 if mode == "lstm" else 1),
        mode=mode,
        state_size=size,
        num_layers=1,
        name="op",
    )


IMAGE, VOLUME, SEQUENCE = (2, 4, 8, 8), (1, 4, 4, 6, 6), (5, 2, 3)
LARGE = (4, 4, 16, 16)
GRID = mx.sym.slice_axis(DATA, axis=1, begin=0, end=2)
LEFT = {
    "conv": (conv((3, 3, 3)), VOLUME),
    "conv of frames": (conv((1, 3, 3)), VOLUME),
    "conv in groups": (conv((3, 1, 1), num_group=2), VOLUME),
    "deconv": (deconv((4, 4), stride=(2, 2)), IMAGE),
    "deconv 3d": (deconv((2, 2, 2)), VOLUME),
    "dense": (dense(256), (128, 16, 768)),
    "pooling": (pooling(pool_type="avg", layout="NHWC"), IMAGE),
    "rnn": (recurrent("rnn_tanh", 3), SEQUENCE),
    "relu": (recurrent("rnn_relu", 3), SEQUENCE),
    "gru": (recurrent("gru", 16), SEQUENCE),
    "softrelu": (mx.sym.Activation(DATA, act_type="softrelu", name="op"), LARGE),
    "elu": (mx.sym.LeakyReLU(DATA, act_type="elu", name="op"), (1, 64, 40, 40)),
    "lrn": (mx.sym.LRN(DATA, nsize=3, name="op"), IMAGE),
    "sampler": (mx.sym.BilinearSampler(DATA, GRID, name="op"), IMAGE),
    "transformer": (
        mx.sym.SpatialTransformer(
            DATA,
            mx.sym.slice(mx.sym.reshape(DATA, (2, -1)), begin=(0, 0), end=(2, 6)),
            target_shape=(4, 4),
            transform_type="affine",
            sampler_type="bilinear",
            name="op",
        ),
        IMAGE,
    ),
    "roi": (
        mx.sym.contrib.ROIAlign(
            DATA,
            mx.sym.slice(mx.sym.reshape(mx.sym.abs(DATA), (-1, 8)), begin=(0, 0), end=(3, 5)),
            pooled_size=(2, 2),
            spatial_scale=0.5,
            name="op",
        ),
        IMAGE,
    ),
    "log1p": (mx.sym.log1p(DATA, name="op"), LARGE),
    "where": (mx.sym.where(DATA, DATA, DATA, name="op"), LARGE),
    "many where one is known": (
        mx.sym.where(DATA, DATA, mx.sym.ones_like(DATA), name="op"),
        (1000, 1000),
    ),
    "one_hot": (mx.sym.one_hot(DATA, 100, name="op"), (8, 8)),
    "box_iou": (mx.sym.contrib.box_iou(DATA, DATA, name="op"), (8, 4)),
    "detections": (
        mx.sym.contrib.MultiBoxDetection(
            DATA,
            mx.sym.tile(mx.sym.flatten(DATA), (1, 2)),
            mx.sym.var("anchors", shape=(1, 9, 4)),
            name="op",
        ),
        (2, 2, 9),
    ),
}
TAKEN = {
    "conv": (conv((3, 3)), IMAGE),
    "conv 1d": (conv((3,)), (2, 4, 8)),
    "conv of points": (conv((1, 1, 1)), VOLUME),
    "conv of single channels": (conv((3, 3, 3), num_group=4), VOLUME),
    "deconv of single channels": (deconv((4, 4), num_group=4), IMAGE),
    "deconv 1d": (deconv((4,)), (2, 4, 8)),
    "dense": (dense(256), (128, 8, 768)),
    "dense of few rows": (mx.sym.FullyConnected(DATA, num_hidden=256, name="op"), (8, 200_000)),
    "dense of few units": (dense(10), (128, 16, 768)),
    "pooling": (pooling(pool_type="avg"), IMAGE),
    "largest, channels last": (pooling(layout="NHWC"), IMAGE),
    "lstm": (recurrent("lstm", 65), SEQUENCE),
    "relu": (mx.sym.Activation(DATA, act_type="relu", name="op"), LARGE),
    "small softrelu": (mx.sym.Activation(DATA, act_type="softrelu", name="op"), IMAGE),
    "small elu": (mx.sym.LeakyReLU(DATA, act_type="elu", name="op"), LARGE),
    "leaky": (mx.sym.LeakyReLU(DATA, name="op"), (1, 64, 40, 40)),
    "small log1p": (mx.sym.log1p(DATA, name="op"), IMAGE),
    "small where": (mx.sym.where(DATA, DATA, DATA, name="op"), IMAGE),
    "where something is known": (
        mx.sym.where(DATA, DATA, mx.sym.ones_like(DATA), name="op"),
        LARGE,
    ),
    "few boxes": (mx.sym.contrib.box_nms(DATA, name="op"), (2, 100, 6)),
    "few classes": (mx.sym.one_hot(DATA, 10, name="op"), (8, 8)),
}
#: What stays in MXNet where nothing is around it.
ALONE = {
    "conv": (conv((3, 3)), IMAGE),
    "conv and movers": (mx.sym.flatten(conv((3, 3), num_group=2)), IMAGE),
    "leaky": (mx.sym.LeakyReLU(DATA, name="op"), (1, 64, 40, 40)),
    "gelu": (mx.sym.LeakyReLU(DATA, act_type="gelu", name="op"), (1, 64, 40, 40)),
    "few boxes": (mx.sym.contrib.box_nms(DATA, name="op"), (2, 100, 6)),
    "few boxes of many": (mx.sym.contrib.box_nms(DATA, topk=100, name="op"), (2, 1000, 6)),
}
TAKEN_ALONE = {
    "conv of single channels": (conv((3, 3), num_group=4), IMAGE),
    "conv of points": (conv((1, 1, 1)), VOLUME),
    "boxes": (mx.sym.contrib.box_nms(DATA, name="op"), (2, 300, 6)),
    "small leaky": (mx.sym.LeakyReLU(DATA, name="op"), LARGE),
    "selu": (mx.sym.LeakyReLU(DATA, act_type="selu", name="op"), (1, 64, 40, 40)),
}


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """Some rules are about one thread, with the default of the option ``prefer``."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("MXTRT_PREFER", "auto")


def around(symbol: mx.sym.Symbol) -> mx.sym.Symbol:
    """An operator with two others behind it, which are worth an engine."""
    return mx.sym.tanh(mx.sym.sigmoid(symbol[0]))


def reasons(symbol: mx.sym.Symbol, shape: tuple[int, ...], **options: object) -> dict[str, str]:
    """What the rules leave to MXNet where ONNX Runtime is the engine, and why."""
    report = mxtrt.inspect(symbol, {"data": shape}, engine="onnxruntime", **options)
    return {n.name: n.reason for n in report.left if n.reason.startswith("on a CPU")}


def operator(symbol: mx.sym.Symbol) -> str:
    """MXNet's name of a symbol's last operator."""
    name: str = json.loads(symbol.tojson())["nodes"][-1]["op"]
    return name


@pytest.mark.parametrize("name", LEFT)
def test_what_mxnet_computes_faster_stays_there(name):
    """With the factor that was measured."""
    symbol, shape = LEFT[name]
    (reason,) = {rule.reason for rule in RULES[operator(symbol)] if not rule.alone}
    assert reasons(around(symbol), shape) == {"op": reason}


@pytest.mark.parametrize("name", TAKEN)
def test_what_is_as_fast_in_an_engine_goes_there(name):
    """The rules are about some attributes and shapes only."""
    symbol, shape = TAKEN[name]
    assert reasons(around(symbol), shape) == {}


@pytest.mark.parametrize("name", ALONE)
def test_what_mxnet_computes_faster_alone_stays_there_alone(name):
    """Behind or before others it is in their engine."""
    symbol, shape = ALONE[name]
    assert set(reasons(symbol, shape)) >= {"op"}
    report = mxtrt.inspect(symbol, {"data": shape}, engine="onnxruntime")
    assert all(left.slower for left in report.left if left.name == "op")
    assert reasons(symbol, shape, prefer="engine") == {}
    assert reasons(symbol, shape, precision="int8") == {}
    assert reasons(symbol, shape, allow_ops="*") == {}
    assert reasons(around(symbol), shape) == {}


@pytest.mark.parametrize("name", TAKEN_ALONE)
def test_what_is_as_fast_alone_goes_into_an_engine_alone(name):
    """The rules are about some attributes and shapes only."""
    symbol, shape = TAKEN_ALONE[name]
    assert reasons(symbol, shape) == {}


@pytest.mark.parametrize("name", LEFT)
def test_allow_ops_takes_it_into_an_engine(name):
    """By name, or all of them."""
    symbol, shape = LEFT[name]
    for allowed in (operator(symbol), "*"):
        assert reasons(around(symbol), shape, allow_ops=allowed) == {}


@pytest.mark.parametrize("name", LEFT)
def test_other_engines_get_it(name):
    """TensorRT, and an inspection for no engine in particular."""
    symbol, shape = LEFT[name]
    graph = typed_graph(around(symbol), {"data": shape})
    weights = set(symbol.list_arguments()) - {"data"}
    found = analyse(graph, weights, mxtrt.Options(), on_cpu=TensorRT.on_cpu)
    assert "op" not in {graph.nodes[index].name for index in found.reasons}


def test_a_float16_network_keeps_its_engine():
    """MXNet has no kernels for it on a CPU."""
    symbol = around(conv((3, 3, 3)))
    types = dict.fromkeys(symbol.list_arguments(), np.float16)
    report = mxtrt.inspect(symbol, {"data": VOLUME}, types, engine="onnxruntime")
    assert report.left == []


@pytest.mark.parametrize(
    "options",
    [{"prefer": "engine"}, {"precision": "int8"}, {"threads": 2}],
    ids=lambda options: next(iter(options)),
)
def test_what_one_thread_computes_slower_is_a_guess(options):
    """It holds for the defaults only."""
    symbol, shape = LEFT["dense"]
    assert reasons(around(symbol), shape)
    assert reasons(around(symbol), shape, **options) == {}


def test_several_threads_keep_what_one_computes_slower(monkeypatch):
    """Their engine is as fast, and MXNet's threads beside it would cost more."""
    monkeypatch.setattr(cores, "threads", lambda: 2)
    symbol, shape = LEFT["dense"]
    assert reasons(around(symbol), shape) == {}


@pytest.mark.parametrize("name", ["conv", "gru", "lrn", "dense"])
def test_the_bind_does_what_the_inspection_says(name):
    """MXNet's numbers, and the reason in the report."""
    symbol, shape = LEFT[name]
    symbol = around(symbol)
    args, aux = parameters(symbol, data=shape)
    x = mx.nd.random.uniform(-1, 1, shape=shape)
    with mxtrt.options(engine="onnxruntime"):
        executor = symbol.simple_bind(mx.cpu(), grad_req="null", data=shape)
        executor.copy_params_from(args, aux)
        answer = executor.forward(data=x)[0]
        report = mxtrt.last_report()
    assert_close(answer, plain(symbol, args, aux, data=x)[0])
    left = {node.name: node.reason for node in report.left}
    assert left["op"] == reasons(symbol, shape)["op"]
    assert report.segments
