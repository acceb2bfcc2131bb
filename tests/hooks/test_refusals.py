"""Nodes that the engine refuses when it builds: the segment is split around them."""

from __future__ import annotations

import json

import mxnet as mx
import pytest
from support.networks import assert_close, classifier, images, parameters, plain

import mxtrt
from mxtrt.engines.onnxruntime import OnnxRuntime
from mxtrt.errors import RefusedNodesError

X = images()


@pytest.fixture
def picky(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """An engine that refuses these nodes, one at a time, as a parser does."""
    refused = {"pool", "norm"}
    build = OnnxRuntime.build

    def pick(self, request):
        for name in request.segment.sources:
            if name in refused:
                raise RefusedNodesError({name: f"the parser does not know {name}"})
        return build(self, request)

    monkeypatch.setattr(OnnxRuntime, "build", pick)
    monkeypatch.setenv("MXTRT_ALLOW_OPS", "*")  # what is left between them is one node
    return refused


def check_report() -> None:
    """The rest runs in engines, and the refused nodes have the engine's reason."""
    report = mxtrt.last_report()
    assert {node.name: node.reason for node in report.left} == {
        "pool": "the parser does not know pool",
        "norm": "the parser does not know norm",
    }
    assert len(report.segments) == 3
    assert all(segment.built for segment in report.segments)


@pytest.mark.usefixtures("picky")
def test_bind_is_split():
    """Weights are there: at the bind."""
    symbol = classifier()
    args, aux = parameters(symbol, data=X.shape)
    with mxtrt.options():
        executor = symbol.bind(
            mx.cpu(), {**args, "data": X, "softmax_label": mx.nd.zeros((2,))}, aux_states=aux
        )
    check_report()
    assert_close(executor.forward(data=X)[0], plain(symbol, args, aux, data=X)[0])


@pytest.mark.usefixtures("picky")
def test_simple_bind_is_split_at_the_first_forward():
    """And the executor goes on with the new engines, also after the weights change."""
    symbol = classifier()
    with mxtrt.options():
        executor = symbol.simple_bind(mx.cpu(), grad_req="null", data=X.shape)
    for seed in range(2):
        args, aux = parameters(symbol, seed=seed, data=X.shape)
        executor.copy_params_from(args, aux)
        for _ in range(2):
            assert_close(executor.forward(data=X)[0], plain(symbol, args, aux, data=X)[0])
        check_report()
    assert mxtrt.last_report().reason == ""


@pytest.mark.usefixtures("picky")
def test_a_hybridized_block_is_split():
    """At the first call."""
    symbol = classifier()
    args, aux = parameters(symbol, data=X.shape)
    net = mx.gluon.SymbolBlock(symbol, [mx.sym.var("data"), mx.sym.var("softmax_label")])
    for name, value in {**args, **aux}.items():
        net.collect_params()[name]._load_init(value, mx.cpu())
    net.hybridize()
    with mxtrt.options():
        for _ in range(2):
            out = net(X, mx.nd.zeros((2,)))
            assert_close(out, plain(symbol, args, aux, data=X)[0])
    check_report()


@pytest.mark.usefixtures("picky")
def test_optimize_for_is_split():
    """The returned symbol runs the refused nodes in MXNet."""
    symbol = classifier()
    args, aux = parameters(symbol, data=X.shape)
    given = {**args, "data": X, "softmax_label": mx.nd.zeros((2,))}
    rewritten = symbol.optimize_for("TensorRT", given, dict(aux), mx.cpu())
    check_report()
    states = {name: aux[name] for name in rewritten.list_auxiliary_states()}
    executor = rewritten.bind(
        mx.cpu(), {n: given[n] for n in rewritten.list_arguments()}, aux_states=states
    )
    assert_close(executor.forward()[0], plain(symbol, args, aux, data=X)[0])


def test_a_graph_that_is_refused_altogether_runs_as_plain_mxnet(picky):
    """No engine is left, and no error."""
    symbol = classifier()
    picky.update(node["name"] for node in json.loads(symbol.tojson())["nodes"])
    args, aux = parameters(symbol, data=X.shape)
    with mxtrt.options():
        executor = symbol.simple_bind(mx.cpu(), grad_req="null", data=X.shape)
    executor.copy_params_from(args, aux)
    for _ in range(2):
        assert_close(executor.forward(data=X)[0], plain(symbol, args, aux, data=X)[0])
    assert mxtrt.last_report().segments == []
