"""verify=True: engines that answer otherwise than MXNet are found and cut down."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from support.binds import bound
from support.networks import assert_close, classifier, images, mixed, parameters, plain
from support.planted import plant

import mxtrt

X = images()


def slightly_off(emit, builder, inputs, outputs):
    """A relu that is wrong by a ten thousandth."""
    right = builder.fresh("right")
    emit("Relu", inputs, [right])
    emit("Mul", [right, builder.constant(np.float32(1.0001))], outputs)


MUTANTS = {
    "relu does nothing": ("Relu", lambda emit, _, i, o: emit("Identity", i, o), "relu"),
    "relu off by 1e-4": ("Relu", slightly_off, "relu"),
    "dense without its bias": (
        "Gemm",
        lambda emit, _, i, o: emit("Gemm", i[:2], o, transB=1),
        "dense",
    ),
    "convolution without its bias": (
        "Conv",
        lambda emit, _, i, o: emit("Conv", i[:2], o, kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        "conv",
    ),
    "average for maximum": (
        "MaxPool",
        lambda emit, _, i, o: emit("AveragePool", i, o, kernel_shape=[2, 2], strides=[2, 2]),
        "pool",
    ),
    "refused by the engine once it is alone": (
        "Relu",
        lambda emit, _, i, o: emit("Sqrt", i, o),
        "relu",
    ),
}


@pytest.mark.parametrize("way", ["bind", "simple_bind", "optimize_for", "gluon"])
def test_a_right_engine_is_verified(way):
    """The whole graph keeps its engine, and the report says how close it is."""
    symbol = classifier()
    args, aux = parameters(symbol, data=X.shape)
    with mxtrt.options(verify=True):
        answer, report = bound(symbol, way, args, aux)
    assert_close(answer, plain(symbol, args, aux, data=X)[0])
    assert report.left == []
    assert [note.split(":")[0] for note in report.segments[0].notes] == ["verified"]


@pytest.mark.parametrize("way", ["bind", "simple_bind", "optimize_for", "gluon"])
@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_wrong_converter_is_bisected_to_its_node(monkeypatch, mutant, way):
    """The guilty node stays in MXNet with the reason, the others keep engines; MXNet's numbers."""
    op_type, change, guilty = MUTANTS[mutant]
    symbol = classifier()
    args, aux = parameters(symbol, data=X.shape)
    expected = plain(symbol, args, aux, data=X)[0]
    plant(monkeypatch, op_type, change)
    with mxtrt.options(verify=True):
        answer, report = bound(symbol, way, args, aux)
    assert_close(answer, expected)
    (left,) = [node for node in report.left if node.reason.startswith("verify: ")]
    assert left.name == guilty
    assert "tolerances from MXNet's answer" in left.reason
    assert report.segments
    assert all(segment.built for segment in report.segments)


def test_without_verify_the_mutant_goes_through(monkeypatch):
    """The mutants are what they claim to be."""
    symbol = classifier()
    args, aux = parameters(symbol, data=X.shape)
    expected = plain(symbol, args, aux, data=X)[0]
    plant(monkeypatch, *MUTANTS["relu does nothing"][:2])
    with mxtrt.options():
        answer, report = bound(symbol, "bind", args, aux)
    assert report.left == []
    with pytest.raises(AssertionError):
        assert_close(answer, expected)


def test_two_guilty_nodes_of_one_segment_are_both_found(monkeypatch):
    """Verification goes on after the first until what is left is right."""
    data = mx.sym.var("data")
    symbol = mx.sym.relu(mx.sym.exp(mx.sym.relu(data - 1, name="one")) - 2, name="two") * 3
    plant(monkeypatch, *MUTANTS["relu does nothing"][:2])
    expected = plain(symbol, {}, {}, data=X)[0]
    with mxtrt.options(verify=True, allow_ops="*"):
        executor = symbol.bind(mx.cpu(), {"data": X}, grad_req="null")
    assert_close(executor.forward()[0], expected)
    reasons = {node.name: node.reason for node in mxtrt.last_report().left}
    assert sorted(reasons) == ["one", "two"]


def test_integers_and_indices_are_verified_exactly():
    """Token ids move by no rounding; the noise on weights gives the tolerance."""
    data = mx.sym.var("data")
    table = mx.sym.Embedding(data, input_dim=50, output_dim=8, name="table")
    symbol = mx.sym.Group(
        [
            mx.sym.FullyConnected(table, num_hidden=4, name="dense", flatten=False),
            mx.sym.topk(mx.sym.FullyConnected(table, num_hidden=9, name="rank"), k=3, name="top"),
        ]
    )
    tokens = mx.nd.array(np.arange(12).reshape(2, 6))
    args, aux = parameters(symbol, data=tokens.shape)
    with mxtrt.options(verify=True):
        executor = symbol.bind(mx.cpu(), {"data": tokens, **args}, grad_req="null")
    assert not [node for node in mxtrt.last_report().left if "verify" in node.reason]
    for seen, right in zip(executor.forward(), plain(symbol, args, aux, data=tokens), strict=True):
        assert_close(seen, right)


def test_values_that_are_no_numbers_decide_nothing():
    """A square root of random numbers is not a number half of the time, to both."""
    symbol = mx.sym.sqrt(mx.sym.sqrt(mx.sym.var("data")))
    with mxtrt.options(verify=True):
        executor = symbol.simple_bind(mx.cpu(), grad_req="null", data=(64,))
        executor.forward(data=mx.nd.ones((64,)) * 16)
    assert mxtrt.last_report().left == []
    assert float(executor.outputs[0][0].asscalar()) == 2.0


def test_each_segment_is_verified():
    """Segments on both sides of an operator of MXNet's."""
    symbol = mixed()
    args, aux = parameters(symbol, data=X.shape)
    with mxtrt.options(verify=True):
        symbol.bind(mx.cpu(), {"data": X, **args}, grad_req="null", aux_states=aux)
    notes = [note for segment in mxtrt.last_report().segments for note in segment.notes]
    assert len(notes) == 2
    assert all(note.startswith("verified: ") for note in notes)


@pytest.fixture
def onednn_subgraphs(monkeypatch):
    """MXNet as it is without our settings: oneDNN's subgraphs are on."""
    monkeypatch.setenv("MXNET_SUBGRAPH_BACKEND", "MKLDNN")


def residual() -> tuple[mx.sym.Symbol, dict]:
    """A pre-activation residual unit, which oneDNN's subgraph pass gets wrong."""

    def conv(x: mx.sym.Symbol, name: str) -> mx.sym.Symbol:
        return mx.sym.Convolution(x, num_filter=4, kernel=(3, 3), pad=(1, 1), name=name)

    start = conv(mx.sym.var("data"), "first")
    inner = conv(mx.sym.Activation(start, act_type="relu"), "second")
    body = conv(mx.sym.Activation(inner, act_type="relu"), "third")
    symbol = mx.sym.elemwise_add(start, body)
    return symbol, parameters(symbol, data=X.shape)[0]


@pytest.mark.parametrize("way", ["bind", "simple_bind", "gluon"])
def test_engines_are_compared_with_mxnets_operators_and_not_with_its_subgraphs(
    onednn_subgraphs, monkeypatch, way
):
    """Those fail, or are wrong: the engine is verified, and its answer is the right one."""
    symbol, args = residual()
    with monkeypatch.context() as without:
        without.setenv("MXNET_SUBGRAPH_BACKEND", "NONE")
        expected = plain(symbol, args, {}, data=X)[0]
    if way == "gluon":
        symbol = mx.sym.Group([symbol, mx.sym.var("softmax_label") * 1])
    with mxtrt.options(verify=True, allow_ops="*"):
        answer, report = bound(symbol, way, args, {})
    answer = answer[0] if isinstance(answer, list) else answer
    assert_close(answer, expected)
    assert not report.reason
    assert report.left == []
    assert [note.split(":")[0] for note in report.segments[0].notes] == ["verified"]


def test_where_mxnets_subgraphs_fail_its_operators_are_timed(onednn_subgraphs):
    """With prefer="fastest" too, the graph is not left to MXNet for that."""
    symbol, args = residual()
    with mxtrt.options(prefer="fastest", allow_ops="*"):
        symbol.bind(mx.cpu(), {"data": X, **args}, grad_req="null")
    report = mxtrt.last_report()
    assert not report.reason
    told = [n for s in report.segments for n in s.notes] + [node.reason for node in report.left]
    assert any(" ms in " in text for text in told)
