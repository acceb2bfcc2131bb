"""Symbol.optimize_for("TensorRT") and what it returns."""

from __future__ import annotations

import copy
import gc
import pickle

import mxnet as mx
import pytest
from support.networks import assert_close, classifier, images, mixed, parameters, plain

import mxtrt
from mxtrt.node import library
from mxtrt.plain.forward import originals

X = images()


def test_weights_leave_the_symbol_and_the_dictionaries():
    """As with any MXNet backend, args and aux keep only arguments of the new symbol."""
    symbol = classifier()
    args, aux = parameters(symbol, data=X.shape)
    given, states = {"data": X, **args}, dict(aux)
    given["softmax_label"] = mx.nd.zeros((2,))
    partitioned = symbol.optimize_for("TensorRT", given, states, mx.cpu())
    assert partitioned.list_arguments() == ["data", "softmax_label"]
    assert partitioned.list_outputs() == ["softmax_output"]
    assert list(given) == ["data", "softmax_label"]
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


@pytest.mark.parametrize("args", [None, {}])
@pytest.mark.parametrize("extra", [{}, {"type_dict": {"data": "float32"}}])
def test_everything_may_be_known_by_shape_only(args, extra):
    """A symbol without weights, and nothing but shape_dict."""
    symbol = mx.sym.exp(mx.sym.relu(mx.sym.var("data"))) + 1
    partitioned = symbol.optimize_for(
        "TensorRT", args, ctx=mx.cpu(), allow_ops="*", shape_dict={"data": X.shape}, **extra
    )
    assert len(mxtrt.last_report().segments) == 1
    executor = partitioned.bind(mx.cpu(), {"data": X})
    assert_close(executor.forward()[0], plain(symbol, {}, {}, data=X)[0])


@pytest.mark.parametrize("backend", ["NONE", None])
def test_a_label_that_the_caller_gives_stays_an_argument(monkeypatch, backend):
    """Nothing reads it, and scripts feed it as before; its shape may be left out at the bind."""
    if backend is None:
        monkeypatch.delenv("MXNET_SUBGRAPH_BACKEND")
    symbol = classifier()
    args, aux = parameters(symbol, data=X.shape)
    given = {"data": X, "softmax_label": mx.nd.zeros((2,)), **args}
    partitioned = symbol.optimize_for("TensorRT", given, dict(aux), mx.cpu())
    expected = plain(symbol, args, aux, data=X)[0]
    label = mx.nd.ones((2,))
    for shapes in ({}, {"softmax_label": (2,)}):
        executor = partitioned.simple_bind(mx.cpu(), grad_req="null", data=X.shape, **shapes)
        assert executor.arg_dict["softmax_label"].shape == (2,)
        assert_close(executor.forward(data=X, softmax_label=label)[0], expected)
    five = images(5)
    executor = partitioned.bind(mx.cpu(), {"data": five, "softmax_label": mx.nd.ones((5,))})
    assert_close(executor.forward()[0], plain(symbol, args, aux, data=five)[0])
    module = mx.mod.Module(partitioned)
    module.bind([("data", X.shape)], [("softmax_label", (2,))], for_training=False)
    module.init_params()
    module.forward(mx.io.DataBatch([X], [label]), is_train=False)
    assert_close(module.get_outputs()[0], expected)


@pytest.mark.parametrize("on", [False, True])
def test_a_symbol_gets_its_engines_where_it_is_bound_with_shapes(on):
    """MXNet's script for TensorRT: optimize_for with the weights alone, then simple_bind."""
    symbol = classifier()
    args, aux = parameters(symbol, data=X.shape)
    expected = plain(symbol, args, aux, data=X)[0]
    given, states = dict(args), dict(aux)
    with mxtrt.options(enabled=on):
        deferred = symbol.optimize_for("TensorRT", args=given, aux=states, ctx=mx.cpu())
        assert (given, states) == (args, aux)
        assert deferred.list_arguments() == symbol.list_arguments()
        for copies in (False, True):
            runs = mxtrt.stats().engine_runs
            executor = deferred.simple_bind(
                mx.cpu(), grad_req="null", force_rebind=True, data=X.shape
            )
            if copies:
                executor.copy_params_from(given, states)
            assert_close(executor.forward(is_train=False, data=X)[0], expected)
            assert mxtrt.stats().engine_runs == runs + 1
        label = {"softmax_label": mx.nd.zeros((2,))}
        executor = deferred.bind(mx.cpu(), {"data": X, **label}, grad_req="null")
        assert_close(executor.forward()[0], expected)
        args, aux = parameters(symbol, seed=5, data=X.shape)
        executor.copy_params_from(args, aux)
        assert_close(executor.forward()[0], plain(symbol, args, aux, data=X)[0])


def test_a_symbol_that_waits_for_shapes_is_saved_as_it_is(tmp_path):
    """Its weights are the caller's, and so is its graph; a copy waits as it does."""
    symbol = classifier()
    args, aux = parameters(symbol, data=X.shape)
    deferred = symbol.optimize_for("TensorRT", dict(args), dict(aux), mx.cpu())
    mx.model.save_checkpoint(str(tmp_path / "net"), 0, deferred, args, aux)
    whole, stored, _ = mx.model.load_checkpoint(str(tmp_path / "net"), 0)
    assert whole.tojson() == symbol.tojson()
    assert stored.keys() == args.keys()
    assert pickle.loads(pickle.dumps(deferred)).tojson() == symbol.tojson()
    runs = mxtrt.stats().engine_runs
    executor = copy.copy(deferred).simple_bind(mx.cpu(), grad_req="null", data=X.shape)
    assert_close(executor.forward(data=X)[0], plain(symbol, args, aux, data=X)[0])
    assert mxtrt.stats().engine_runs == runs + 1


def test_the_script_of_older_versions_runs_in_engines():
    """get_backend_symbol of MXNet 1.5 to 1.8, whatever the environment says; others are MXNet's."""
    symbol = classifier()
    args, aux = parameters(symbol, data=X.shape)
    executor = symbol.get_backend_symbol("TensorRT").simple_bind(
        ctx=mx.cpu(), data=X.shape, grad_req="null", force_rebind=True
    )
    executor.copy_params_from(args, aux)
    runs = mxtrt.stats().engine_runs
    assert_close(executor.forward(data=X)[0], plain(symbol, args, aux, data=X)[0])
    assert mxtrt.stats().engine_runs == runs + 1
    assert type(symbol.get_backend_symbol("MKLDNN")) is mx.sym.Symbol


def test_calibration_in_the_first_forwards_is_told_from_calibration():
    """The option of MXNet's own backend: answers are right, and one sentence says what to do."""
    symbol = classifier()
    args, aux = parameters(symbol, data=X.shape)
    given = {"precision": "int8", "calibration_iters": 700}
    with pytest.warns(mxtrt.MxtrtWarning, match="mxtrt.calibrate"):
        symbol.optimize_for("TensorRT", dict(args), dict(aux), mx.cpu(), **given)
    made = symbol.optimize_for("TensorRT", dict(args), dict(aux), mx.cpu(), **given)  # said once
    executor = made.simple_bind(mx.cpu(), grad_req="null", data=X.shape)
    assert_close(executor.forward(data=X)[0], plain(symbol, args, aux, data=X)[0])
    assert mxtrt.last_report().nodes_in_engine == 7


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
    del given["softmax_label"]
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
    flags = library().lib.mxtrt_memory_flags
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
