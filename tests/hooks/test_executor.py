"""Executors: Symbol.bind, Symbol.simple_bind and Module."""

from __future__ import annotations

import time

import mxnet as mx
import numpy as np
import pytest
from mxnet.executor import Executor
from support.networks import assert_close, classifier, images, mixed, parameters, plain

import mxtrt
from mxtrt.hooks.executor import InferenceExecutor

X = images()


def bound(symbol: mx.sym.Symbol, **options: object) -> Executor:
    """An executor bound with the integration on, without weights at bind."""
    with mxtrt.options(**options):
        return symbol.simple_bind(mx.cpu(), grad_req="null", data=X.shape)


def test_simple_bind_without_weights_builds_at_the_first_forward():
    """The report names the segments at bind; weights set later are the ones that answer."""
    symbol = classifier()
    args, aux = parameters(symbol, data=X.shape)
    executor = bound(symbol)
    report = mxtrt.last_report()
    assert [segment.built for segment in report.segments] == [False]
    assert report.left == []
    executor.copy_params_from(args, aux)
    assert_close(executor.forward(data=X)[0], plain(symbol, args, aux, data=X)[0])
    assert report.segments[0].built
    assert report.build_seconds > 0
    assert report.weight_bytes == sum(a.size * 4 for a in (*args.values(), *aux.values()))


def test_bind_with_weights_builds_at_once():
    """Symbol.bind tells weights from data by the inputs that read them."""
    symbol = classifier()
    args, aux = parameters(symbol, data=X.shape)
    label = {"softmax_label": mx.nd.zeros((2,))}
    with mxtrt.options():
        executor = symbol.bind(mx.cpu(), {"data": X, **label, **args}, aux_states=aux)
    assert mxtrt.last_report().segments[0].built
    assert mxtrt.last_report().segments[0].inputs == ["data float32[2x3x16x16]"]
    assert_close(executor.forward()[0], plain(symbol, args, aux, data=X)[0])


@pytest.mark.parametrize("way", ["bind", "simple_bind"])
def test_a_symbol_that_is_bound_for_every_request_runs_in_mxnet(way):
    """All answers are right; an executor that stays has engines after a while."""
    symbol = classifier()
    args, aux = parameters(symbol, data=X.shape)
    expected = plain(symbol, args, aux, data=X)[0]
    label = {"softmax_label": mx.nd.zeros((2,))}

    def bind() -> Executor:
        with mxtrt.options(build="wait"):
            if way == "bind":
                given = {"data": X, **label, **args}
                return symbol.bind(mx.cpu(), given, aux_states=aux, grad_req="null")
            executor = symbol.simple_bind(mx.cpu(), grad_req="null", data=X.shape)
            executor.copy_params_from(args, aux)
            X.copyto(executor.arg_dict["data"])
            return executor

    def ask(executor: Executor) -> bool:
        """Whether an engine answered."""
        runs = mxtrt.stats().engine_runs
        assert_close(executor.forward()[0], expected)
        return mxtrt.stats().engine_runs > runs

    assert ask(bind())
    engines = [ask(bind()) for _ in range(60)]
    assert not all(engines)
    assert not engines[-1]
    kept = [bind() for _ in range(3)]
    until = time.monotonic() + 60
    while not all(ask(executor) for executor in kept) and time.monotonic() < until:
        mxtrt.ready(timeout=1)
    assert all(ask(executor) for executor in kept)


def test_a_second_input_gives_fresh_results():
    """Nothing of the first forward is left in the second, given by keyword or in place."""
    symbol = classifier()
    args, aux = parameters(symbol, data=X.shape)
    executor = bound(symbol)
    executor.copy_params_from(args, aux)
    executor.forward(data=X)
    other = images(seed=5)
    expected = plain(symbol, args, aux, data=other)[0]
    assert_close(executor.forward(data=other)[0], expected)
    executor.arg_dict["data"][:] = X
    assert_close(executor.forward()[0], plain(symbol, args, aux, data=X)[0])
    other.copyto(executor.arg_dict["data"])
    assert_close(executor.forward()[0], expected)


def test_weights_set_again_are_followed():
    """copy_params_from, in-place writes and forward's keywords all reach the engine."""
    symbol = classifier()
    args, aux = parameters(symbol, data=X.shape)
    executor = bound(symbol)
    executor.copy_params_from(args, aux)
    executor.forward(data=X)
    for seed in range(1, 4):
        args, aux = parameters(symbol, seed=seed, data=X.shape)
        executor.copy_params_from(args, aux)
        expected = plain(symbol, args, aux, data=X)[0]
        for _ in range(4):
            assert_close(executor.forward(data=X)[0], expected)
    args["dense_bias"] = args["dense_bias"] + 1
    executor.arg_dict["dense_bias"][:] = args["dense_bias"]
    assert_close(executor.forward(data=X)[0], plain(symbol, args, aux, data=X)[0])
    args["dense_weight"] = args["dense_weight"] * 2
    expected = plain(symbol, args, aux, data=X)[0]
    assert_close(executor.forward(data=X, dense_weight=args["dense_weight"])[0], expected)
    assert_close(executor.forward(data=X)[0], expected)


def test_training_forward_is_mxnets_own():
    """is_train=True uses batch statistics and dropout as without mxtrt, bit for bit."""
    symbol = classifier()
    args, aux = parameters(symbol, data=X.shape)
    executor = bound(symbol)
    executor.copy_params_from(args, aux)
    executor.forward(data=X)
    ours = executor.forward(is_train=True, data=X)[0].asnumpy()
    own = symbol.simple_bind(mx.cpu(), grad_req="null", data=X.shape)
    own.copy_params_from(args, aux)
    assert np.array_equal(ours, own.forward(is_train=True, data=X)[0].asnumpy())


def test_a_graph_bound_for_gradients_is_left_alone():
    """grad_req='write', simple_bind's default, means training."""
    with mxtrt.options():
        executor = classifier().simple_bind(mx.cpu(), data=X.shape)
    assert type(executor) is Executor
    assert "bound for gradients" in mxtrt.last_report().reason


def test_a_monitor_sees_every_operator():
    """With a monitor callback MXNet runs the graph, so that no operator is hidden from it."""
    symbol = classifier()
    args, aux = parameters(symbol, data=X.shape)
    executor = bound(symbol)
    executor.copy_params_from(args, aux)
    seen = []
    executor.set_monitor_callback(lambda name, _: seen.append(mx.base.py_str(name)))
    executor.forward(data=X)[0].wait_to_read()
    assert "conv_output" in seen


def test_what_no_engine_takes_stays_in_mxnet_between_two_segments():
    """Every head is kept in order, and the report gives a reason for the node left behind."""
    symbol = mixed()
    args, aux = parameters(symbol, data=X.shape)
    executor = bound(symbol)
    executor.copy_params_from(args, aux)
    outputs = executor.forward(data=X)
    report = mxtrt.last_report()
    assert [segment.built for segment in report.segments] == [True, True]
    assert [(n.name, n.op) for n in report.left] == [("middle", "round")]
    assert "no converter for operator round" in report.left[0].reason
    for seen, expected in zip(outputs, plain(symbol, args, aux, data=X), strict=True):
        assert_close(seen, expected)


@pytest.mark.parametrize("denied", ["Convolution", "BatchNorm", "Activation,Pooling", "Flatten"])
def test_any_operator_can_be_denied(denied):
    """deny_ops keeps operators in MXNet; the answers do not change."""
    symbol = classifier()
    args, aux = parameters(symbol, data=X.shape)
    executor = bound(symbol, deny_ops=denied)
    executor.copy_params_from(args, aux)
    assert_close(executor.forward(data=X)[0], plain(symbol, args, aux, data=X)[0])
    left = {node.op for node in mxtrt.last_report().left if "deny_ops" in node.reason}
    assert left == set(denied.split(","))


def test_reshape_shares_the_engine():
    """A larger and a smaller batch run without another build."""
    symbol = classifier()
    args, aux = parameters(symbol, data=X.shape)
    executor = bound(symbol)
    executor.copy_params_from(args, aux)
    executor.forward(data=X)
    built = mxtrt.last_report().build_seconds
    for batch in (5, 1):
        x = images(batch)
        shapes = {"data": x.shape, "softmax_label": (batch,)}
        other = executor.reshape(allow_up_sizing=True, **shapes)
        assert isinstance(other, InferenceExecutor)
        assert_close(other.forward(data=x)[0], plain(symbol, args, aux, data=x)[0])
    assert mxtrt.last_report().build_seconds == built


@pytest.mark.parametrize("inline", [0, 10**6])
def test_a_reshaped_executor_computes_into_the_outputs_of_the_old_one(inline):
    """As with MXNet's, whose executors share the memory; a head stays the same array."""
    symbol = classifier()
    args, aux = parameters(symbol, data=X.shape)
    executor = bound(symbol, inline_below=inline)
    executor.copy_params_from(args, aux)
    for seed in range(2, 6):
        executor.forward(data=images(seed=seed))
    kept, one = executor.outputs[0], images(1)
    latest = kept.asnumpy()
    other = executor.reshape(data=one.shape, softmax_label=(1,), partial_shaping=True)
    assert np.array_equal(kept.asnumpy(), latest)
    runs = mxtrt.stats().engine_runs
    for seed in range(2, 6):
        x = images(1, seed)
        expected = plain(symbol, args, aux, data=x)[0]
        assert_close(other.forward(data=x)[0], expected)
        assert_close(kept[:1], expected)
        expected = plain(symbol, args, aux, data=X)[0]
        assert_close(executor.forward(data=X)[0], expected)
        assert_close(other.outputs[0], expected[:1])
    assert executor.outputs[0] is kept
    assert mxtrt.stats().engine_runs == runs + 8


def test_a_reshaped_executor_has_the_monitor_of_the_old_one():
    """Also the one that Module makes of it at another batch size, and the next."""
    symbol = classifier()
    args, aux = parameters(symbol, data=X.shape)
    module = mx.mod.Module(symbol, label_names=["softmax_label"])
    seen: list[str] = []
    with mxtrt.options():
        module.bind([("data", X.shape)], [("softmax_label", (2,))], for_training=False)
        module.set_params(args, aux)
        (executor,) = module._exec_group.execs
        executor.set_monitor_callback(lambda name, _: seen.append(mx.base.py_str(name)))
        for batch in (2, 1, 2):
            seen.clear()
            module.forward(mx.io.DataBatch([images(batch)], [mx.nd.zeros((batch,))]))
            module.get_outputs()[0].wait_to_read()
            assert "conv_output" in seen


def test_heads_keep_their_names_and_order():
    """outputs, output_dict and list_outputs are those of the user's symbol."""
    internals = classifier().get_internals()
    symbol = mx.sym.Group([internals["softmax_output"], internals["relu_output"]])
    args, aux = parameters(symbol, data=X.shape)
    executor = bound(symbol)
    executor.copy_params_from(args, aux)
    executor.forward(data=X)
    assert list(executor.output_dict) == ["softmax_output", "relu_output"]
    for seen, expected in zip(executor.outputs, plain(symbol, args, aux, data=X), strict=True):
        assert_close(seen, expected)


@pytest.mark.parametrize("inline", [0, 10**6])
def test_an_output_kept_from_before_shows_the_latest_result(inline):
    """As with MXNet's executor, whose output arrays stay the same."""
    symbol = classifier()
    args, aux = parameters(symbol, data=X.shape)
    executor = bound(symbol, inline_below=inline)
    kept = executor.outputs[0]
    executor.copy_params_from(args, aux)
    for seed in range(4):
        x = images(seed=seed)
        executor.forward(data=x)
        assert_close(kept, plain(symbol, args, aux, data=x)[0])
        assert executor.output_dict["softmax_output"] is kept


def test_results_of_a_reader_that_has_not_run_yet_are_not_overwritten():
    """A copy asked for before the next forward holds the earlier result."""
    symbol = classifier()
    args, aux = parameters(symbol, data=X.shape)
    executor = bound(symbol)
    executor.copy_params_from(args, aux)
    inputs = [images(seed=seed) for seed in range(20)]
    copies = [executor.forward(data=x)[0].copy() for x in inputs]
    for x, copy in zip(inputs, copies, strict=True):
        assert_close(copy, plain(symbol, args, aux, data=x)[0])


def test_duplicate_and_passed_through_heads_are_kept():
    """A head listed twice, an input that is also an output, a weight that is an output."""
    data = mx.sym.var("data")
    dense = mx.sym.FullyConnected(mx.sym.Flatten(data), num_hidden=3, name="dense")
    symbol = mx.sym.Group([dense, data, dense, dense.get_internals()["dense_bias"]])
    args, aux = parameters(symbol, data=X.shape)
    executor = bound(symbol)
    executor.copy_params_from(args, aux)
    for seen, expected in zip(
        executor.forward(data=X), plain(symbol, args, aux, data=X), strict=True
    ):
        assert_close(seen, expected)
    assert mxtrt.last_report().nodes_in_engine == 2


def test_sparse_inputs_stay_in_mxnet():
    """An engine takes dense arrays; a symbol bound with a CSR input runs as plain MXNet."""
    symbol = mx.sym.dot(mx.sym.var("data", stype="csr"), mx.sym.var("w"))
    with mxtrt.options(), pytest.warns(mxtrt.MxtrtWarning, match="sparse parameters or inputs"):
        executor = symbol.simple_bind(
            mx.cpu(),
            grad_req="null",
            data=(2, 4),
            w=(4, 3),
            stype_dict={"data": "csr", "w": "default"},
        )
    executor.forward(data=mx.nd.ones((2, 4)).tostype("csr"), w=mx.nd.ones((4, 3)))
    assert np.array_equal(executor.outputs[0].asnumpy(), np.full((2, 3), 4.0))


def test_shared_weights_of_two_layers():
    """One weight read by two convolutions is one weight of the engine."""
    data, weight = mx.sym.var("data"), mx.sym.var("weight")
    same = {"num_filter": 3, "kernel": (3, 3), "pad": (1, 1), "no_bias": True}
    once = mx.sym.Convolution(data, weight, **same)
    symbol = mx.sym.Convolution(mx.sym.relu(once), weight, **same)
    args, aux = parameters(symbol, data=X.shape)
    executor = bound(symbol)
    executor.copy_params_from(args, aux)
    assert_close(executor.forward(data=X)[0], plain(symbol, args, aux, data=X)[0])
    assert mxtrt.last_report().weight_bytes == 3 * 3 * 9 * 4


def test_a_weight_that_mxnet_reads_too_stays_mxnets():
    """It is handed to the engine by pointer at every forward, and owned once."""
    data, weight = mx.sym.var("data"), mx.sym.var("weight", shape=(4, 16))
    dense = mx.sym.FullyConnected(data, weight, num_hidden=4, no_bias=True)
    symbol = mx.sym.Group([mx.sym.relu(dense), mx.sym.round(weight)])
    args, aux = parameters(symbol, data=(2, 16))
    x = mx.nd.random.uniform(shape=(2, 16))
    with mxtrt.options():
        executor = symbol.simple_bind(mx.cpu(), grad_req="null", data=(2, 16))
    executor.copy_params_from(args, aux)
    for seen, expected in zip(
        executor.forward(data=x), plain(symbol, args, aux, data=x), strict=True
    ):
        assert_close(seen, expected)
    report = mxtrt.last_report()
    assert report.weight_bytes == 0
    assert report.segments[0].inputs[1] == "weight float32[4x16]"


def test_module_binds_sets_parameters_and_predicts():
    """bind, set_params, forward, a batch change, predict with a partial batch, get_params."""
    symbol = classifier()
    args, aux = parameters(symbol, data=X.shape)
    module = mx.mod.Module(symbol, label_names=["softmax_label"])
    with mxtrt.options():
        module.bind([("data", X.shape)], [("softmax_label", (2,))], for_training=False)
        module.set_params(args, aux)
        module.forward(mx.io.DataBatch([X]), is_train=False)
        assert_close(module.get_outputs()[0], plain(symbol, args, aux, data=X)[0])
        assert mxtrt.last_report().nodes_in_engine == 7

        five = images(5)
        module.forward(mx.io.DataBatch([five], [mx.nd.zeros((5,))]), is_train=False)
        assert_close(module.get_outputs()[0], plain(symbol, args, aux, data=five)[0])

        nine = images(9)
        iterator = mx.io.NDArrayIter(nine, mx.nd.zeros((9,)), batch_size=2)
        assert_close(module.predict(iterator), plain(symbol, args, aux, data=nine)[0])

    stored, _ = module.get_params()
    assert np.array_equal(stored["conv_weight"].asnumpy(), args["conv_weight"].asnumpy())
    args, aux = parameters(symbol, seed=9, data=X.shape)
    module.set_params(args, aux)
    module.forward(mx.io.DataBatch([X], [mx.nd.zeros((2,))]), is_train=False)
    assert_close(module.get_outputs()[0], plain(symbol, args, aux, data=X)[0])


def test_module_trains_and_then_predicts():
    """Module.fit with the integration on is MXNet's own training."""
    symbol = classifier()
    x, y = images(8), mx.nd.array(np.arange(8) % 10)
    args, aux = parameters(symbol, data=(4, 3, 16, 16))

    def trained(enabled: bool) -> dict:
        module = mx.mod.Module(symbol)
        with mxtrt.options(enabled=enabled):
            module.fit(
                mx.io.NDArrayIter(x, y, batch_size=4),
                num_epoch=2,
                arg_params={k: v.copy() for k, v in args.items()},
                aux_params={k: v.copy() for k, v in aux.items()},
                optimizer_params={"learning_rate": 0.1},
            )
        return module.get_params()[0]

    ours, own = trained(True), trained(False)
    for name in own:
        assert np.array_equal(ours[name].asnumpy(), own[name].asnumpy())


def test_the_switch_is_read_at_every_bind(monkeypatch):
    """USE_TENSORRT=1/0/1 and MXNet's later name in one process; off is bit-equal to never on."""
    symbol = classifier()
    args, aux = parameters(symbol, data=X.shape)
    kinds, answers = [], []
    for name, value in [
        ("USE_TENSORRT", "1"),
        ("USE_TENSORRT", "0"),
        ("MXNET_USE_TENSORRT", "1"),
        ("USE_TENSORRT", "1"),
    ]:
        from mxtrt import config

        token = config._scoped.set(None)  # only the environment speaks
        monkeypatch.delenv("USE_TENSORRT", raising=False)
        monkeypatch.setenv(name, value)
        executor = symbol.simple_bind(mx.cpu(), grad_req="null", data=X.shape)
        config._scoped.reset(token)
        executor.copy_params_from(args, aux)
        answers.append(executor.forward(data=X)[0].asnumpy())
        kinds.append(type(executor) is InferenceExecutor)
    assert kinds == [True, False, True, True]
    assert np.array_equal(answers[1], plain(symbol, args, aux, data=X)[0])


def test_plain_mxnet_keeps_fused_weights_where_mxtrt_does_not():
    """MXNet's oneDNN subgraph pass answers with old weights after set_params; mxtrt is right.

    This pins a fault of MXNet 1.9.1, and why the other tests switch that pass off.
    """
    symbol = classifier()
    first, aux = parameters(symbol, data=X.shape)
    second, _ = parameters(symbol, seed=3, data=X.shape)
    expected = plain(symbol, second, aux, data=X)[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MXNET_SUBGRAPH_BACKEND")
        fused = symbol.simple_bind(mx.cpu(), grad_req="null", data=X.shape)
        ours = bound(symbol)
    for executor in (fused, ours):
        executor.copy_params_from(first, aux)
        executor.forward(data=X)[0].wait_to_read()
        executor.copy_params_from(second, aux)
        executor.forward(data=X)[0].wait_to_read()
    assert_close(ours.outputs[0], expected)
    assert np.abs(fused.outputs[0].asnumpy() - expected).max() > 1e-3


def test_binds_on_the_same_arrays_leave_each_other_alone():
    """To MXNet a bind is a write to its arrays; engines built from them stay as they are."""
    symbol = mx.sym.FullyConnected(mx.sym.var("data"), num_hidden=300, no_bias=True, name="d")
    arrays = {
        "data": mx.nd.random.uniform(shape=(2, 400)),
        "d_weight": mx.nd.random.uniform(shape=(300, 400)),
    }
    executors = []
    for enabled in (True, True, False, True):
        with mxtrt.options(enabled=enabled):
            executors.append(symbol.bind(mx.cpu(), arrays, grad_req="null"))
    engines = [executors[place]._mxtrt.symbol.plan for place in (0, 1, 3)]
    assert all(plan.baseline.still_holds() for plan in engines)
    assert not any(plan.baseline.changed() for plan in engines)
    del executors[1:]
    assert engines[0].baseline.still_holds()
    arrays["d_weight"][7, 7] += 1
    assert all(not plan.baseline.still_holds() for plan in engines)


def test_two_splits_of_one_tensor_keep_their_parts():
    """ONNX Runtime's common subexpressions would take them for one, whatever their numbers."""
    data = mx.sym.var("data") * 2
    fours = mx.sym.split(data, num_outputs=4, squeeze_axis=True)
    twos = mx.sym.split(data, num_outputs=2)
    symbol, x = mx.sym.Group([fours[2], twos[1]]), mx.nd.arange(16).reshape((1, 4, 4))
    expected = [head.asnumpy() for head in symbol.bind(mx.cpu(), {"data": x}).forward()]
    before = mxtrt.stats().engine_failures
    with mxtrt.options():
        executor = symbol.bind(mx.cpu(), {"data": x}, grad_req="null")
    for head, wanted in zip(executor.forward(), expected, strict=True):
        assert_close(head, wanted)
    assert mxtrt.stats().engine_failures == before
