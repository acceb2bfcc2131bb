"""HybridBlock, SymbolBlock and their optimize_for and backend arguments."""

from __future__ import annotations

import json
import sys
import threading

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon
from support.networks import assert_close, images
from support.process import run

import mxtrt

X = images()


def network(seed: int = 0) -> gluon.HybridBlock:
    """A small convolutional network with fixed random parameters."""
    net = gluon.nn.HybridSequential()
    with net.name_scope():
        net.add(
            gluon.nn.Conv2D(4, 3, in_channels=3),
            gluon.nn.BatchNorm(in_channels=4),
            gluon.nn.Activation("relu"),
            gluon.nn.MaxPool2D(),
            gluon.nn.Dropout(0.5),
            gluon.nn.Dense(5, in_units=4 * 7 * 7),
        )
    random = np.random.RandomState(seed)
    net.initialize()
    for name, parameter in net.collect_params().items():
        low = 0.5 if name.endswith(("var", "gamma")) else -0.5
        parameter.set_data(mx.nd.array(random.uniform(low, low + 1, parameter.shape)))
    return net


@pytest.mark.parametrize(
    "flags", [{}, {"static_alloc": True}, {"static_alloc": True, "static_shape": True}]
)
def test_hybridized_networks_run_in_an_engine(flags):
    """With and without static memory, several inputs, several batch sizes, one build."""
    net = network()
    net.hybridize(**flags)
    with mxtrt.options():
        net(X)
    report = mxtrt.last_report()
    assert report.nodes_in_engine == 6
    built = report.build_seconds
    for batch, seed in [(2, 1), (2, 8), (5, 2), (1, 3), (2, 4)]:
        x = images(batch, seed)
        assert_close(net(x), network()(x))
    assert report.build_seconds == built


def test_an_unhybridized_network_is_not_bound():
    """Without hybridize there is no bind: MXNet runs operator by operator."""
    with mxtrt.options():
        network()(X)
    assert network()._cached_op is None


def test_deferred_initialization_works():
    """Shapes unknown before the first call, as Gluon allows."""
    net = gluon.nn.HybridSequential()
    net.add(gluon.nn.Conv2D(4, 3), gluon.nn.BatchNorm(), gluon.nn.Dense(3))
    net.initialize()
    net.hybridize()
    with mxtrt.options():
        ours = net(X).asnumpy()
    assert mxtrt.last_report().nodes_in_engine > 0
    net.hybridize()
    assert_close(ours, net(X))


def test_hybridize_and_optimize_for_take_the_backend_by_name():
    """MXNet's own ways to ask for a backend work without the environment variable."""
    expected = network()(X)
    net = network()
    net.hybridize(backend="TensorRT")
    assert_close(net(X), expected)
    assert mxtrt.last_report().nodes_in_engine == 6

    net = network()
    net.optimize_for(X, backend="TensorRT", deny_ops="Pooling")
    report = mxtrt.last_report()
    assert [node.op for node in report.left] == ["Pooling"]
    assert all(segment.built for segment in report.segments)
    assert_close(net(X), expected)


def test_a_wrong_backend_option_is_an_error():
    """An option given by name in the call is the caller's to mend."""
    net = network()
    with pytest.raises(mxtrt.OptionError, match="unknown option 'preccision', expected one of"):
        net.optimize_for(X, backend="TensorRT", preccision="fp16")


def test_training_is_untouched():
    """The same losses, gradients and parameters as without mxtrt, and evaluation follows them."""

    def run(enabled: bool) -> tuple[list, list, list]:
        mx.random.seed(3)
        net = network()
        net.hybridize()
        losses, answers = [], []
        trainer = gluon.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.05})
        criterion = gluon.loss.SoftmaxCrossEntropyLoss()
        with mxtrt.options(enabled=enabled):
            answers.append(net(X).asnumpy())
            for _ in range(4):
                with autograd.record():
                    loss = criterion(net(X), mx.nd.array([0, 1]))
                loss.backward()
                trainer.step(2)
                losses.append(loss.asnumpy())
                answers.append(net(X).asnumpy())
        values = [p.data().asnumpy() for p in net.collect_params().values()]
        return losses, answers, values

    ours, own = run(True), run(False)
    assert np.array_equal(ours[0], own[0])
    for one, two in zip(ours[2], own[2], strict=True):
        assert np.array_equal(one, two)
    for one, two in zip(ours[1], own[1], strict=True):
        assert_close(one, two)


def test_a_network_first_called_while_recording_gets_its_engine_later():
    """The first inference binds; the recorded call before it did not."""
    net = network()
    net.hybridize()
    with mxtrt.options():
        with autograd.record():
            net(X).backward()
        first = mxtrt.last_report()
        ours = net(X)
    assert mxtrt.last_report() is not first
    with autograd.predict_mode():
        assert_close(ours, net(X))


def test_train_mode_without_recording_keeps_dropout():
    """autograd.train_mode() asks for training behaviour."""
    net = network()
    net.hybridize()
    with mxtrt.options():
        net(X)
        with autograd.train_mode():
            mx.random.seed(5)
            ours = net(X).asnumpy()
    other = network()
    other.hybridize()
    other(X)
    with autograd.train_mode():
        mx.random.seed(5)
        assert_close(ours, other(X))


def test_parameters_set_after_the_bind_are_followed(tmp_path):
    """set_data, in-place writes through a kept reference, load_parameters, initialize, cast."""
    net = network()
    net.hybridize()
    weight = net[0].weight.data()
    with mxtrt.options():
        net(X)
        net[5].bias.set_data(net[5].bias.data() + 1)
        _follows(net)
        weight[:] = weight * 2
        _follows(net)
        other = network(seed=4)
        other.save_parameters(str(tmp_path / "other.params"))
        net.load_parameters(str(tmp_path / "other.params"))
        _follows(net)
        net.collect_params().initialize(mx.init.Xavier(), force_reinit=True)
        _follows(net)
        assert mxtrt.last_report().nodes_in_engine == 6


def _follows(net: gluon.HybridBlock) -> None:
    for _ in range(5):
        ours = net(X).asnumpy()
    with autograd.pause():
        expected = mx.gluon.HybridBlock._call_cached_op.__wrapped__(net, X)
    assert_close(ours, expected)


def test_export_writes_the_users_own_graph(tmp_path):
    """An engine never leaks into a saved model."""
    net = network()
    net.hybridize()
    with mxtrt.options():
        expected = net(X)
        net.export(str(tmp_path / "net"))
    symbol = json.loads((tmp_path / "net-symbol.json").read_text())
    operators = [node["op"] for node in symbol["nodes"] if node["op"] != "null"]
    assert "Convolution" in operators
    assert "_mxtrt_engine" not in operators
    loaded = gluon.SymbolBlock.imports(
        str(tmp_path / "net-symbol.json"), ["data"], str(tmp_path / "net-0000.params")
    )
    loaded.hybridize()
    with mxtrt.options():
        assert_close(loaded(X), expected)
    assert mxtrt.last_report().nodes_in_engine == 6


def test_two_inputs_two_outputs_and_nested_arguments():
    """The structure of arguments and results is the block's."""

    class Pair(gluon.HybridBlock):
        def hybrid_forward(self, F, x, rest):
            return [F.relu(x) + rest[0], (F.tanh(rest[1]), x * 2)]

    net, y, z = Pair(), images(seed=2), images(seed=3)
    expected = net(X, [y, z])
    net.hybridize()
    with mxtrt.options():
        for _ in range(2):
            ours = net(X, [y, z])
            assert_close(ours[0], expected[0])
            assert_close(ours[1][0], expected[1][0])
            assert_close(ours[1][1], expected[1][1])
    assert mxtrt.last_report().segments


def test_inputs_that_do_not_fit_raise_mxnets_error_and_the_next_call_works():
    """A wrong shape is the caller's error, told by MXNet as without mxtrt."""
    net = network()
    net.hybridize()
    with mxtrt.options():
        expected = net(X).asnumpy()
        with pytest.raises(mx.MXNetError):
            net(mx.nd.zeros((2, 7, 16, 16))).wait_to_read()
        assert_close(net(X), expected)


class _NumpyNetwork(gluon.HybridBlock):
    """Layers, functions of mx.np, and results with and without axes."""

    def __init__(self):
        super().__init__()
        self.features = gluon.nn.HybridSequential()
        self.features.add(
            gluon.nn.Conv2D(4, 3),
            gluon.nn.BatchNorm(),
            gluon.nn.Activation("relu"),
            gluon.nn.MaxPool2D(),
            gluon.nn.Dropout(0.5),
            gluon.nn.Dense(5),
        )

    def hybrid_forward(self, F, x):
        """Class probabilities, and more."""
        y = self.features(x)
        z = F.np.exp(y) / 2 + F.np.maximum(y, 0.5) - F.np.tanh(y) * 3
        p = F.npx.softmax(z, axis=-1) + F.npx.sigmoid(z) * F.np.mean(y, axis=1, keepdims=True)
        return p, F.np.sum(F.npx.relu(z), axis=1), F.np.max(p), p > 0.5


@pytest.mark.parametrize("inline_below", [0, 10**6])
def test_networks_of_mxnets_numpy_interface_agree(inline_below):
    """Under npx.set_np; what gives booleans or has no axes is left to MXNet."""
    mx.npx.set_np()
    try:
        net = _NumpyNetwork()
        net.initialize()
        x = mx.np.array(np.random.default_rng(0).random((2, 3, 8, 8), np.float32))
        expected = net(x)
        net.hybridize()
        with mxtrt.options(inline_below=inline_below):
            outputs = net(x)
        report = mxtrt.last_report()
        assert {node.op for node in report.left} == {"_np_max", "_npi_greater_scalar"}
        for ours, theirs in zip(outputs, expected, strict=True):
            assert type(ours) is type(theirs) is mx.np.ndarray
            assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
            np.testing.assert_allclose(ours.asnumpy(), theirs.asnumpy(), rtol=1e-5, atol=1e-6)
    finally:
        mx.npx.reset_np()


def test_threads_share_one_block():
    """Eight threads call one hybridized block with inputs of their own."""
    import threading

    net = network()
    net.hybridize()
    inputs = [images(seed=seed) for seed in range(8)]
    with mxtrt.options(inline_below=10**6):
        expected = [net(x).asnumpy() for x in inputs]
    failures = []

    def work(place: int) -> None:
        for _ in range(50):
            if np.abs(net(inputs[place]).asnumpy() - expected[place]).max() > 1e-5:
                failures.append(place)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


@pytest.mark.parametrize(
    ("who", "mode"), [("the engine's node", "pause"), ("MXNet's operators", "train_mode")]
)
def test_threads_may_share_a_block_once_it_has_answered(who, mode):
    """As in plain MXNet one call warms it up, whoever answered that one and answers the next.

    MXNet's CachedOp sets itself up in its first call and takes no lock for it.
    """
    done = run(f"""
    import threading
    import mxtrt, mxnet as mx
    net = mx.gluon.nn.HybridSequential()
    net.add(*[mx.gluon.nn.Activation("relu") for _ in range(30)])
    inputs = [mx.nd.ones((batch, 4)) for batch in range(1, 5)]
    barrier = threading.Barrier(len(inputs), timeout=30)
    mxtrt.enable(inline_below=1)  # the second run goes through MXNet

    def work(place):
        for _ in range(100):
            if barrier.wait() == 0:
                net.hybridize()
                net(inputs[0])
            barrier.wait()
            with mx.autograd.{mode}():
                for _ in range(3):
                    assert net(inputs[place]).shape == inputs[place].shape

    for thread in (threads := [threading.Thread(target=work, args=(i,)) for i in range(4)]):
        thread.start()
    for thread in threads:
        thread.join()
    print("answered by", {who!r})
    """)
    assert (done.returncode, done.stdout.strip()) == (0, f"answered by {who}"), done.stderr


def test_engines_go_with_their_network():
    """Nothing keeps an engine when its block is dropped or hybridized again, but the idle few."""
    import gc

    from mxtrt.engines.shared import shared_sessions
    from mxtrt.node import library

    net = network()
    net.hybridize()
    with mxtrt.options():
        net(X).wait_to_read()
        gc.collect()
        before = library().counts()
        for _ in range(3):
            net.hybridize()
            net(X).wait_to_read()
        gc.collect()
        assert library().counts() == before
    del net
    gc.collect()
    assert library().counts() == (before[0] - 1, before[1])
    shared_sessions().forget()
    assert library().counts() == (before[0] - 1, before[1] - 1)


@pytest.mark.parametrize("backend", [None, "TensorRT"])
def test_threads_that_make_the_first_call_of_a_block_at_once_all_get_its_engine(backend):
    """Plain MXNet fails in its scopes of names there."""
    x = images()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for _ in range(5):
            net = mx.gluon.nn.HybridSequential()
            net.add(mx.gluon.nn.Conv2D(4, 3, in_channels=3), mx.gluon.nn.Dense(3))
            net.initialize()
            expected = net(x).asnumpy()
            net.hybridize(backend=backend)
            before, gate, seen = mxtrt.stats(), threading.Barrier(4), []

            def call(net=net, gate=gate, seen=seen) -> None:
                gate.wait()
                with mxtrt.options(enabled=backend is None):
                    seen.extend(net(x).asnumpy() for _ in range(2))

            threads = [threading.Thread(target=call) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len(seen) == 8
            for answer in seen:
                assert_close(answer, expected)
            now = mxtrt.stats()
            assert (now.builds - before.builds, now.engine_runs - before.engine_runs) == (1, 8)
            assert net._backend == backend
    finally:
        sys.setswitchinterval(interval)


def test_engines_come_back_after_every_change_of_weights_that_onednn_reorders():
    """MXNet answers once in between, and keeps the weights of convolutions in another layout."""
    net = gluon.nn.HybridSequential()
    net.add(gluon.nn.Conv2D(16, 3, in_channels=16), gluon.nn.Conv2D(16, 3, in_channels=16))
    net.initialize()
    net.hybridize(static_alloc=True, static_shape=True)
    x = mx.nd.random.uniform(-1, 1, (1, 16, 8, 8))
    with mxtrt.options(prefer="engine"):
        for _ in range(4):
            net(x).wait_to_read()
            for parameter in net.collect_params().values():
                parameter.set_data(parameter.data() * 1.1)
            for _ in range(20):
                net(x).wait_to_read()
            before = mxtrt.stats()
            seen = net(x)
            after = mxtrt.stats()
            runs = after.engine_runs - before.engine_runs
            assert (runs, after.rebuilds - before.rebuilds) == (1, 0)
    net.hybridize()
    with mxtrt.options(enabled=False):
        assert_close(seen, net(x))


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("late", [False, True])
def test_running_means_are_followed_where_a_block_is_trained(static, late):
    """MXNet counts no writes to them where memory is static, at a forward or at its backward."""
    net = gluon.nn.HybridSequential()
    net.add(gluon.nn.Dense(6), gluon.nn.BatchNorm(), gluon.nn.Dense(3))
    net.initialize(mx.init.Normal(1))
    x, other = (mx.nd.random.normal(shape=(4, 5)) for _ in range(2))
    net(x)
    net.hybridize(static_alloc=static, static_shape=static)
    with mxtrt.options():
        for _ in range(3):
            net(x).asnumpy()
    for _ in range(3):
        with mxtrt.options():
            with autograd.record():
                loss = net(x)
            if late:
                net(other).asnumpy()
            loss.backward()
            runs = mxtrt.stats().engine_runs
            answers = [net(other) for _ in range(20)]
            assert mxtrt.stats().engine_runs > runs
        values = {name: parameter.data() for name, parameter in net.collect_params().items()}
        symbol = net(mx.sym.var("data"))
        names = symbol.list_arguments()
        given = {n: other if n == "data" else values[n] for n in names}
        states = {n: values[n] for n in symbol.list_auxiliary_states()}
        with mxtrt.options(enabled=False):
            expected = symbol.bind(mx.cpu(), given, aux_states=states, grad_req="null").forward()
        for answer in answers:
            assert_close(answer, expected[0])
