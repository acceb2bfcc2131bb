"""Engines that fail at run time: retired, and MXNet answers the same request."""

from __future__ import annotations

import logging

import mxnet as mx
import pytest
from support.networks import assert_close, classifier, images, mixed, parameters, plain

import mxtrt
from mxtrt.convert.segment import OnnxSegment
from mxtrt.node.library import library
from mxtrt.plan.engine_node import EngineNode

X = images()

NEVER, ALWAYS = 0, 10**6


def fail(node: EngineNode) -> None:
    """Give a node a session that fails at every run: its model has no inputs of these names."""
    lib = library()
    ((shapes, (outputs, *_)),) = node.variants
    model: OnnxSegment = node.variants.model_at(shapes)
    weights = [
        (w.type.name, w.address, w.type.shape, w.type.dtype)
        for w in node.sessions.in_place.values()
    ]
    names = [f"no_{name}" for name in model.inputs]
    handle = lib.create_session(model.model, names, model.outputs, weights, ())
    lib.put_variant(node.key, [*shapes, *outputs], handle)
    lib.release(handle)


def plan_of(executor: mx.executor.Executor) -> object:
    """The engines of an executor."""
    return executor._mxtrt.symbol.plan


def served(symbol: mx.sym.Symbol, inline_below: int) -> tuple[mx.executor.Executor, list]:
    """An executor that has answered from its engines, and the right answer."""
    args, aux = parameters(symbol, data=X.shape)
    with mxtrt.options(inline_below=inline_below):
        executor = symbol.simple_bind(mx.cpu(), grad_req="null", data=X.shape)
    executor.copy_params_from(args, aux)
    expected = plain(symbol, args, aux, data=X)
    for seen, right in zip(executor.forward(data=X), expected, strict=True):
        assert_close(seen, right)
    return executor, expected


@pytest.mark.parametrize("inline_below", [NEVER, ALWAYS])
def test_an_engine_that_fails_is_replaced_within_the_request(inline_below, caplog):
    """Right numbers in the failing request and after it; one warning; counted once."""
    executor, expected = served(classifier(), inline_below)
    fail(plan_of(executor).nodes[0])
    before = mxtrt.stats()
    with caplog.at_level(logging.WARNING, "mxtrt"):
        for _ in range(3):
            assert_close(executor.forward(data=X)[0], expected[0])
    assert len(caplog.records) == 1
    assert "failed at run time, MXNet's operators take over: ONNX Runtime: " in caplog.text
    now = mxtrt.stats()
    assert now.engine_failures == before.engine_failures + 1
    assert now.fallbacks == before.fallbacks + 1
    assert now.engine_runs == before.engine_runs
    assert executor._mxtrt is None
    reasons = {node.reason for node in mxtrt.last_report().left}
    assert any(reason.startswith("its engine failed at run time: ONNX") for reason in reasons)


def test_only_the_segment_that_failed_goes_back_to_mxnet():
    """The other segment keeps its engine; a second failure does not bring the first back."""
    executor, expected = served(mixed(), NEVER)
    for nodes_left in (1, 0):
        fail(plan_of(executor).nodes[0])
        for _ in range(2):
            for seen, right in zip(executor.forward(data=X), expected, strict=True):
                assert_close(seen, right)
        assert len(executor._mxtrt.symbol.plan.nodes if executor._mxtrt else ()) == nodes_left


@pytest.mark.parametrize("inline_below", [NEVER, ALWAYS])
@pytest.mark.parametrize("static", [False, True])
def test_a_block_answers_through_a_failure(inline_below, static):
    """Gluon blocks: the failing call, the next, and those after are MXNet's numbers."""
    net = mx.gluon.nn.HybridSequential()
    net.add(mx.gluon.nn.Conv2D(4, 3), mx.gluon.nn.BatchNorm(scale=False), mx.gluon.nn.Dense(3))
    net.initialize()
    expected = net(X).asnumpy()
    net.hybridize(static_alloc=static, static_shape=static)
    with mxtrt.options(inline_below=inline_below):
        assert_close(net(X), expected)
        before = mxtrt.stats()
        (binding,) = net._mxtrt._kinds.values()
        (node,) = binding._bound._plan.nodes
        fail(node)
        for _ in range(3):
            assert_close(net(X), expected)
    assert mxtrt.stats().engine_failures == before.engine_failures + 1
    assert mxtrt.stats().fallbacks == before.fallbacks + 1


def test_a_partitioned_symbol_is_answered_for_as_long_as_it_lives():
    """optimize_for leaves no plain executor beside it: every forward is taken over."""
    symbol = classifier()
    args, aux = parameters(symbol, data=X.shape)
    expected = plain(symbol, args, aux, data=X)[0]
    given = {**args, "data": X, "softmax_label": mx.nd.zeros((2,))}
    engines = symbol.optimize_for("TensorRT", given, dict(aux), mx.cpu(), data_names="data")
    names = engines.list_arguments()
    executor = engines.bind(mx.cpu(), {name: given[name] for name in names}, grad_req="null")
    assert_close(executor.forward()[0], expected)
    (node,) = engines.plan.nodes
    fail(node)
    before = mxtrt.stats()
    # Work that waits for the output, and MXNet's one worker thread, must not wait for ever.
    weight = mx.nd.ones((8, 3, 3, 3))
    later = [
        mx.nd.Convolution(X, weight, no_bias=True, kernel=(3, 3), num_filter=8)
        * executor.forward()[0].sum()
        for _ in range(6)
    ]
    mx.nd.waitall()
    assert len(later) == 6
    for _ in range(2):
        assert_close(executor.forward()[0], expected)
    assert mxtrt.stats().fallbacks == before.fallbacks + 8
    assert mxtrt.stats().engine_failures == before.engine_failures + 1


def test_a_weight_may_be_written_to_with_what_the_failing_engine_is_to_answer():
    """The next forward waits for the write, the write for the answer, the answer for neither."""
    executor, expected = served(classifier(), NEVER)
    fail(plan_of(executor).nodes[0])
    weight = executor.arg_dict["dense_weight"]
    weight[:] = weight + 0 * executor.forward(data=X)[0].sum()
    assert_close(executor.forward(data=X)[0], expected[0])


def test_when_nothing_can_take_over_it_is_mxnets_error(monkeypatch):
    """The message says both; the next forward is MXNet's and works."""
    executor, expected = served(classifier(), NEVER)
    fail(plan_of(executor).nodes[0])
    monkeypatch.setattr("multiprocessing.spawn._python_exe", "/nowhere/python")
    with pytest.raises(mx.MXNetError, match="MXNet's operators did not take over"):
        executor.forward(data=X)[0].wait_to_read()
    assert_close(executor.forward(data=X)[0], expected[0])


def test_weights_that_were_written_to_are_not_taken_over_with(monkeypatch):
    """An error rather than a wrong number: their memory need not be what the engine holds."""
    symbol = classifier()
    args, aux = parameters(symbol, data=X.shape)
    given = {**args, "data": X, "softmax_label": mx.nd.zeros((2,))}
    engines = symbol.optimize_for("TensorRT", given, dict(aux), mx.cpu(), data_names="data")
    names = engines.list_arguments()
    executor = engines.bind(mx.cpu(), {name: given[name] for name in names}, grad_req="null")
    fail(engines.plan.nodes[0])
    args["dense_weight"][:] = 0
    args["dense_weight"].wait_to_read()
    with pytest.raises(mx.MXNetError, match="its weights were written to since"):
        executor.forward()[0].wait_to_read()
