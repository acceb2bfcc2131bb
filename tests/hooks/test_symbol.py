"""Symbol.optimize_for("TensorRT") and what it returns."""

from __future__ import annotations

import copy
import gc

import mxnet as mx
import pytest
from networks import assert_close, classifier, images, mixed, parameters, plain

import mxtrt
from mxtrt.hooks.partitioned import originals
from mxtrt.node import library

X = images()


def test_weights_leave_the_symbol_and_the_dictionaries():
    """As with any MXNet backend, args and aux keep only what the new symbol reads."""
    symbol = classifier()
    args, aux = parameters(symbol, data=X.shape)
    given, states = {"data": X, **args}, dict(aux)
    given["softmax_label"] = mx.nd.zeros((2,))
    partitioned = symbol.optimize_for("TensorRT", given, states, mx.cpu())
    assert partitioned.list_arguments() == ["data"]
    assert partitioned.list_outputs() == ["softmax_output"]
    assert list(given) == ["data"]
    assert states == {}
    executor = partitioned.bind(mx.cpu(), given)
    assert_close(executor.forward()[0], plain(symbol, args, aux, data=X)[0])


def test_data_may_be_known_by_shape_only():
    """shape_dict in place of a data array."""
    symbol = classifier()
    args, aux = parameters(symbol, data=X.shape)
    partitioned = symbol.optimize_for(
        "TensorRT", dict(args), dict(aux), mx.cpu(), shape_dict={"data": X.shape}
    )
    executor = partitioned.bind(mx.cpu(), {"data": X})
    assert_close(executor.forward()[0], plain(symbol, args, aux, data=X)[0])


def test_a_partitioned_symbol_is_not_partitioned_again():
    """A second optimize_for, and a bind with the integration on, leave engine nodes alone."""
    symbol = mixed()
    args, aux = parameters(symbol, data=X.shape)
    given = {"data": X, **args}
    once = symbol.optimize_for("TensorRT", given, dict(aux), mx.cpu())
    with mxtrt.options():
        twice = once.optimize_for("TensorRT", given, {}, mx.cpu())
        executor = twice.bind(mx.cpu(), given)
    names = [node for node in twice.tojson().split('"') if node == "_mxtrt_engine"]
    assert len(names) == 2
    for seen, expected in zip(executor.forward(), plain(symbol, args, aux, data=X), strict=True):
        assert_close(seen, expected)


def test_engines_live_as_long_as_the_symbol_its_copies_or_its_executor():
    """No engine outlives its last user, none dies before."""
    symbol = classifier()
    args, aux = parameters(symbol, data=X.shape)
    given = {"data": X, "softmax_label": mx.nd.zeros((2,)), **args}
    gc.collect()
    before = library().counts()
    partitioned = symbol.optimize_for("TensorRT", given, dict(aux), mx.cpu())
    twin = copy.deepcopy(partitioned)[0]
    del partitioned
    gc.collect()
    executor = twin.bind(mx.cpu(), {"data": X})
    del twin
    gc.collect()
    assert_close(executor.forward()[0], plain(symbol, args, aux, data=X)[0])
    assert library().counts() == (before[0] + 1, before[1] + 1)
    executor.outputs[0].wait_to_read()
    del executor
    gc.collect()
    assert library().counts() == before


def test_a_symbol_with_sparse_arguments_stays_in_mxnet():
    """Whatever MXNet does with a row-sparse weight in a backend."""
    symbol = classifier()
    args, aux = parameters(symbol, data=X.shape)
    name = next(name for name, array in args.items() if array.ndim == 2)
    given = {"data": X, "softmax_label": mx.nd.zeros((2,)), **args}
    given[name] = given[name].tostype("row_sparse")
    with pytest.warns(mxtrt.MxtrtWarning, match="sparse parameters or inputs"):
        same = symbol.optimize_for("TensorRT", given, aux, mx.cpu())
    assert same.list_arguments() == symbol.list_arguments()


def test_a_symbol_that_outlived_its_engine_says_so():
    """JSON of a partitioned symbol has no engine: one sentence, and how to get one."""
    symbol = classifier()
    args, aux = parameters(symbol, data=X.shape)
    given = {"data": X, **args}
    text = symbol.optimize_for("TensorRT", given, dict(aux), mx.cpu()).tojson()
    gc.collect()
    with pytest.raises(mx.MXNetError, match="partition the original symbol again"):
        mx.sym.load_json(text).bind(mx.cpu(), {"data": X})
    executor = classifier().simple_bind(mx.cpu(), grad_req="null", data=X.shape)
    executor.forward(data=X)[0].wait_to_read()


def test_a_gradient_of_an_engine_is_refused_in_one_sentence():
    """Backward through an engine node names the way out; the next forward works."""
    symbol = classifier()
    args, aux = parameters(symbol, data=X.shape)
    given = {"data": X, **args}
    partitioned = symbol.optimize_for("TensorRT", given, dict(aux), mx.cpu())
    executor = partitioned.bind(mx.cpu(), {"data": X}, {"data": mx.nd.zeros(X.shape)})
    executor.forward(is_train=True)
    executor.backward(mx.nd.ones((2, 10)))
    with pytest.raises(mx.MXNetError, match="an engine has no gradient"):
        executor.grad_dict["data"].wait_to_read()
    fresh = partitioned.bind(mx.cpu(), {"data": X})
    assert_close(fresh.forward()[0], plain(symbol, args, aux, data=X)[0])


def test_other_backends_are_mxnets_own():
    """optimize_for with another backend, known or not, is MXNet's affair."""
    partitioned = classifier().optimize_for("no_such_backend")
    assert "_mxtrt_engine" not in partitioned.tojson()


def test_weights_under_way_are_waited_for(monkeypatch):
    """MXNet allocates an array it is asked for, also when an operator is about to do that."""
    flags = library()._lib.mxtrt_memory_flags
    optimize_for, seen = originals.optimize_for, []

    def look(symbol, backend, args, *rest, **kwargs):
        seen.extend(flags(array.handle) for array in args.values())
        return optimize_for(symbol, backend, args, *rest, **kwargs)

    monkeypatch.setattr(originals, "optimize_for", look)
    large = mx.nd.random.uniform(shape=(1500, 1500))
    weight = mx.nd.dot(mx.nd.dot(large, large), large)  # takes a while
    assert flags(weight.handle) == 2, "it is not allocated yet"
    symbol = mx.sym.FullyConnected(mx.sym.var("data"), num_hidden=1500, no_bias=True, name="d")
    symbol.optimize_for("TensorRT", {"data": mx.nd.ones((1, 1500)), "d_weight": weight})
    assert seen == [0, 0]
