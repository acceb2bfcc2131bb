"""Arrays that a graph was not bound for: whatever comes, plain MXNet's answer or exception."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon
from mxnet.ndarray.ndarray import _new_alloc_handle
from support.networks import assert_close

import mxtrt
from mxtrt.hooks.tries import Tries

ALWAYS = 10**6
SHAPE = (4, 6)


def good(seed: int = 0) -> Any:
    """What the graphs are made for."""
    return mx.nd.array(np.random.RandomState(seed).uniform(-1, 1, SHAPE))


def _at_an_offset() -> Any:
    return mx.nd.concat(mx.nd.zeros((3, 6)), good(1), dim=0)[3:]


def _failing() -> Any:
    """An array whose pending write fails."""
    return mx.nd.random.normal(0, -1, SHAPE)


def _shared_memory() -> Any:
    return good(1).as_in_context(mx.Context("cpu_shared", 0))


def _numpy() -> Any:
    return good(1).as_np_ndarray()


def _under_numpy_semantics() -> Any:
    with mx.util.np_shape(True):
        return mx.nd.zeros((0, 6))


def _late() -> Any:
    array = mx.nd.NDArray(_new_alloc_handle(SHAPE, mx.cpu(), True))
    array[:] = good(1)
    return array


#: What may come where a dense float32 array of one shape on cpu(0) was expected.
ODD: dict[str, Callable[[], Any]] = {
    "csr": lambda: good(1).tostype("csr"),
    "empty csr": lambda: mx.nd.sparse.zeros("csr", SHAPE),
    "row_sparse": lambda: good(1).tostype("row_sparse"),
    "empty row_sparse": lambda: mx.nd.sparse.zeros("row_sparse", SHAPE),
    "float64": lambda: good(1).astype("float64"),
    "float16": lambda: good(1).astype("float16"),
    "int32": lambda: good(1).astype("int32"),
    "uint8": lambda: mx.nd.ones(SHAPE, dtype="uint8"),
    "bool": lambda: mx.nd.ones(SHAPE, dtype="bool"),
    "cpu(1)": lambda: good(1).as_in_context(mx.cpu(1)),
    "cpu_shared": _shared_memory,
    "another batch size": lambda: mx.nd.ones((9, 6)),
    "another size": lambda: mx.nd.ones((4, 7)),
    "one axis": lambda: mx.nd.ones((6,)),
    "more axes": lambda: mx.nd.ones((4, 2, 3)),
    "no elements": _under_numpy_semantics,
    "at an offset": _at_an_offset,
    "reshaped": lambda: good(1).reshape((2, 12)).reshape(SHAPE),
    "written late": _late,
    "a write that fails": _failing,
    "of the NumPy interface": _numpy,
    "NumPy's own": lambda: np.ones(SHAPE, np.float32),
    "symbol": lambda: mx.sym.Variable("x"),
    "number": lambda: 3.0,
    "None": lambda: None,
    "list": lambda: [good(1)],
    "two": lambda: (good(1), good(2)),
    "with a gradient": lambda: _with_gradient(),
}


def _with_gradient() -> Any:
    array = good(1)
    array.attach_grad()
    return array


def _dense(**flags: Any) -> gluon.HybridBlock:
    net = gluon.nn.HybridSequential()
    net.add(gluon.nn.Dense(5, in_units=6, activation="relu"), gluon.nn.Dense(3, in_units=5))
    net.initialize()
    for seed, parameter in enumerate(net.collect_params().values()):
        random = np.random.RandomState(seed)
        parameter.set_data(mx.nd.array(random.uniform(-1, 1, parameter.shape)))
    net.hybridize(**flags)
    return net


class _Scaling(gluon.HybridBlock):
    """No parameters, and operators that know sparse arrays."""

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        return F.square(F.abs(x))


def _symbol() -> tuple[Any, dict[str, Any]]:
    data = mx.sym.Variable("data")
    symbol = mx.sym.FullyConnected(data, num_hidden=3, name="fc")
    random = np.random.RandomState(3)
    shapes = {"fc_weight": (3, 6), "fc_bias": (3,)}
    return symbol, {n: mx.nd.array(random.uniform(-1, 1, s)) for n, s in shapes.items()}


def _executor(symbol: Any, args: dict[str, Any]) -> Callable[[Any], Any]:
    executor = symbol.simple_bind(mx.cpu(), grad_req="null", data=SHAPE)
    executor.copy_params_from(args, allow_extra_params=True)
    return lambda x: executor.forward(data=x)[0].copy()


def _written_into(symbol: Any, args: dict[str, Any]) -> Callable[[Any], Any]:
    executor = symbol.simple_bind(mx.cpu(), grad_req="null", data=SHAPE)
    executor.copy_params_from(args)

    def forward(x: Any) -> Any:
        executor.arg_dict["data"][:] = x
        return executor.forward()[0].copy()

    return forward


def _bound() -> Callable[[Any], Any]:
    symbol, args = _symbol()
    executor = symbol.bind(mx.cpu(), {**args, "data": mx.nd.zeros(SHAPE)}, grad_req="null")
    return lambda x: executor.forward(data=x)[0].copy()


def _optimized() -> Callable[[Any], Any]:
    symbol, args = _symbol()
    if mxtrt.config.current().enabled:
        args["data"] = mx.nd.zeros(SHAPE)
        symbol = symbol.optimize_for("TensorRT", args, {}, mx.cpu())
        del args["data"]
    return _executor(symbol, args)


def _symbol_block() -> Callable[[Any], Any]:
    symbol, args = _symbol()
    block = gluon.SymbolBlock(symbol, [mx.sym.Variable("data")])
    for name, parameter in block.collect_params().items():
        parameter._load_init(args[name], mx.cpu())
    block.hybridize()
    return block


#: The ways to bind; each gives something to call with an array.
WAYS: dict[str, Callable[[], Callable[[Any], Any]]] = {
    "block": _dense,
    "block with static_alloc": lambda: _dense(static_alloc=True),
    "block with static memory": lambda: _dense(static_alloc=True, static_shape=True),
    "block without parameters": lambda: _hybridized(_Scaling()),
    "SymbolBlock": _symbol_block,
    "simple_bind": lambda: _executor(*_symbol()),
    "simple_bind, written into": lambda: _written_into(*_symbol()),
    "bind": _bound,
    "optimize_for": _optimized,
}


def _hybridized(block: gluon.HybridBlock) -> gluon.HybridBlock:
    block.hybridize()
    return block


def outcome(forward: Callable[[Any], Any], make: Callable[[], Any]) -> tuple[Any, ...]:
    """What a call gives: all that a caller sees of the answer, or the exception."""
    try:
        answer = forward(make())
        values = answer.asnumpy()
    except Exception as error:
        return (type(error).__name__,)
    return values, str(answer.ctx), answer.dtype, answer.stype, type(answer), answer.grad is None


def difference(ours: tuple[Any, ...], plain: tuple[Any, ...]) -> str:
    """Where an outcome is not plain MXNet's; empty if it is."""
    if ours[1:] != plain[1:] or (len(plain) == 1 and ours != plain):
        return f"{ours} where plain MXNet has {plain}"
    try:
        if len(plain) > 1:
            assert_close(ours[0], plain[0])
    except AssertionError as error:
        return str(error)
    return ""


@contextlib.contextmanager
def binds(enabled: bool, **options: Any) -> Iterator[None]:
    """Plain MXNet, or engines wherever they can be."""
    with warnings.catch_warnings(), mxtrt.options(enabled=enabled, allow_ops="*", **options):
        warnings.simplefilter("ignore")  # of what is left to MXNet
        yield


def runs(forward: Callable[[Any], Any], calls: int) -> int:
    """How many of these good calls an engine answers."""
    before = mxtrt.stats().engine_runs
    for seed in range(calls):
        forward(good(seed)).wait_to_read()
    return mxtrt.stats().engine_runs - before


@pytest.mark.parametrize("inline_below", [0, ALWAYS], ids=["in MXNet's engine", "inline"])
@pytest.mark.parametrize("way", WAYS)
def test_a_later_request_with_odd_arrays(way, inline_below):
    """Whatever comes after good requests: MXNet's outcome, and engines for good ones again."""
    found = []
    with binds(False):
        plain = WAYS[way]()
        plain(good())
    with binds(True, inline_below=inline_below):
        ours = WAYS[way]()
        assert runs(ours, 3) == 3
        for name, make in ODD.items():
            told = difference(outcome(ours, make), outcome(plain, make))
            told = told or difference(outcome(ours, good), outcome(plain, good))
            if told or not runs(ours, 2):
                found.append(f"{name}: {told or 'later requests run without an engine'}")
    assert not found, "\n".join(found)


@pytest.mark.parametrize("way", [name for name in WAYS if "lock" in name])
def test_a_first_request_with_odd_arrays(way):
    """The outcome is MXNet's, and so it is for good requests, which then have engines."""
    found = []
    for name, make in ODD.items():
        with binds(False):
            plain = WAYS[way]()
            expected = outcome(plain, make), outcome(plain, good)
        with binds(True, inline_below=ALWAYS):
            ours = WAYS[way]()
            told = difference(outcome(ours, make), expected[0])
            told = told or difference(outcome(ours, good), expected[1])
            answers = len(expected[1]) > 1  # otherwise the first call made another graph
            if told or (answers and not runs(ours, 2)):
                found.append(f"{name}: {told or 'later requests run without an engine'}")
    assert not found, "\n".join(found)


class _Tokens(gluon.HybridBlock):
    """An embedding, which takes indices of any dtype."""

    def __init__(self) -> None:
        super().__init__()
        with self.name_scope():
            self.embed = gluon.nn.Embedding(10, 6)
            self.dense = gluon.nn.Dense(3, in_units=6, flatten=False)

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        return self.dense(self.embed(x))


def test_a_warm_up_of_another_dtype_costs_no_engine():
    """A block warmed up in float32 and then fed int32 has engines for both, and keeps both."""
    net = _Tokens()
    net.initialize(mx.init.Uniform())
    tokens = mx.nd.array([[1, 2, 9]])
    expected = net(tokens).asnumpy()
    net.hybridize()
    with binds(True, inline_below=ALWAYS):
        net(tokens)
        before = mxtrt.stats()
        for _ in range(3):
            for dtype in ("int32", "float32"):
                assert_close(net(tokens.astype(dtype)), expected)
    seen = mxtrt.stats()
    assert seen.engine_runs - before.engine_runs == 6
    assert seen.builds - before.builds == 1


def test_more_dtypes_than_a_block_has_engines_for(monkeypatch, caplog):
    """The others are MXNet's, which is said once."""
    monkeypatch.setattr("mxtrt.hooks.gluon._MOST_KINDS", 1)
    net = _hybridized(_Scaling())
    with binds(True, inline_below=ALWAYS):
        assert runs(net, 2) == 2
        for _ in range(3):
            assert net(mx.nd.ones(SHAPE, dtype="int32")).dtype is np.int32
        assert runs(net, 2) == 2
    (told,) = caplog.messages
    assert told.startswith("calls whose inputs are of more than 1 combinations of dtypes")


@pytest.mark.parametrize("warm", [0, 2])
def test_shapes_that_mxnet_refuses_write_nothing_to_standard_output(warm, capfd):
    """It is the program's own: MXNet's answer to a wrong shape is the exception."""
    net = _dense()
    with binds(True):
        runs(net, warm)
        with pytest.raises(mx.MXNetError):
            net(mx.nd.ones((4, 7)))
    assert capfd.readouterr().out == ""


def test_sparse_inputs_are_told_of_once(caplog):
    """A log line says why the engine does not answer."""
    net = _dense()
    with binds(True):
        for _ in range(3):
            net(good())
            net(good().tostype("csr"))
    assert caplog.messages == ["calls whose inputs are csr run as plain MXNet"]


@pytest.mark.parametrize("inline_below", [0, ALWAYS])
@pytest.mark.parametrize("flags", [{}, {"static_alloc": True, "static_shape": True}])
def test_the_answer_is_where_the_input_is(flags, inline_below):
    """Parameters on two contexts: each call is answered in its own, by an engine."""
    net = _dense(**flags)
    expected = net(good()).asnumpy()
    net.collect_params().reset_ctx([mx.cpu(0), mx.cpu(1)])
    net.hybridize(**flags)
    with binds(True, inline_below=inline_below):
        before = mxtrt.stats().engine_runs
        for context in [mx.cpu(1), mx.cpu(0), mx.cpu(1), mx.cpu(0)]:
            answer = net(good().as_in_context(context))
            assert answer.ctx == context
            assert_close(answer, expected)
        assert mxtrt.stats().engine_runs - before == 4


@pytest.mark.parametrize("inline_below", [0, ALWAYS])
def test_an_executors_answer_is_in_its_context(inline_below):
    """Executors bound elsewhere than on cpu(0), reshaped ones too, whatever feeds them."""
    symbol, args = _symbol()
    with binds(True, inline_below=inline_below):
        executor = symbol.simple_bind(mx.cpu(1), grad_req="null", data=SHAPE)
        executor.copy_params_from(args)
        reshaped = executor.reshape(data=(2, 6))
        before = mxtrt.stats().engine_runs
        for one, rows in ((executor, 4), (reshaped, 2)):
            for context in (mx.cpu(1), mx.cpu(0)):
                (answer,) = one.forward(data=good()[:rows].as_in_context(context))
                assert answer.ctx == mx.cpu(1)
                answer.wait_to_read()
        assert mxtrt.stats().engine_runs - before == 4


def test_parameters_that_move_are_followed():
    """``reset_ctx`` and ``cast`` between calls: engines where and as the parameters are now."""
    net = _dense()
    expected = net(good()).asnumpy()
    net.hybridize()
    with binds(True):
        assert runs(net, 2) == 2
        net.collect_params().reset_ctx(mx.cpu(1))
        moved = good().as_in_context(mx.cpu(1))
        with pytest.raises(mx.MXNetError, match="same context"):
            net(good())
        before = mxtrt.stats().engine_runs
        for _ in range(2):
            answer = net(moved)
            assert answer.ctx == mx.cpu(1)
            assert_close(answer, expected)
        assert mxtrt.stats().engine_runs > before
        net.collect_params().reset_ctx([mx.cpu(0)])
        net.cast("float64")
        assert net(good().astype("float64")).dtype is np.float64
        net.cast("float32")
        assert runs(net, 2) == 2


class _Normalizing(gluon.HybridBlock):
    def hybrid_forward(self, F: Any, x: Any, *statistics: Any) -> Any:
        return F.relu(F.BatchNorm(x, *statistics, fix_gamma=False, eps=1e-5))


@pytest.mark.parametrize("backend", [None, "TensorRT"])
def test_auxiliary_states_may_be_inputs_of_the_call(backend):
    """BatchNorm's statistics as arguments: they are data, which an engine reads in every call."""
    net = _Normalizing()
    with binds(False):
        expected = [net(*_statistics(seed)).asnumpy() for seed in range(3)]
    net.hybridize(backend=backend)
    before = mxtrt.stats().engine_runs
    with binds(True):
        for seed in range(3):
            given = _statistics(seed)
            assert_close(net(*given), expected[seed])
            for array, unchanged in zip(given, _statistics(seed), strict=True):
                assert np.array_equal(array.asnumpy(), unchanged.asnumpy())
    assert mxtrt.stats().engine_runs - before == 3


def _statistics(seed: int) -> list[Any]:
    random = np.random.RandomState(seed)
    shapes = [(2, 3, 4, 5), *[(3,)] * 4]
    return [mx.nd.array(random.uniform(0.5, 1.5, shape)) for shape in shapes]


def test_an_executors_auxiliary_states_may_be_data():
    """With ``data_names`` a state is no weight: it may change at every forward."""
    data = mx.sym.Variable("data")
    symbol = mx.sym.relu(mx.sym.BatchNorm(data, name="norm", fix_gamma=False))
    names = ("data", "norm_moving_mean", "norm_moving_var")
    with binds(True, data_names=names):
        executor = symbol.simple_bind(mx.cpu(), grad_req="null", data=(2, 3, 4))
        executor.arg_dict["norm_gamma"][:] = 1
        before = mxtrt.stats().engine_runs
        for mean in (0.25, 0.5):
            executor.aux_dict["norm_moving_mean"][:] = mean
            executor.aux_dict["norm_moving_var"][:] = 1
            (answer,) = executor.forward(data=mx.nd.ones((2, 3, 4)))
            assert np.allclose(answer.asnumpy(), (1 - mean) / np.sqrt(1 + 1e-3), atol=1e-5)
        assert mxtrt.stats().engine_runs - before == 2


def test_many_bad_requests_cost_few_tries(monkeypatch):
    """What never gets an engine is tried ever less often, and the same thing never twice."""
    tried = []
    net = _dense()
    with binds(True):
        partition = mxtrt.hooks.gluon.partition_symbol
        monkeypatch.setattr(
            "mxtrt.hooks.gluon.partition_symbol",
            lambda *args, **options: (tried.append(1), partition(*args, **options))[1],
        )
        for size in range(7, 107):
            with pytest.raises(mx.MXNetError):
                net(mx.nd.ones((4, size)))
        assert len(tried) <= 9
        same = len(tried)
        for _ in range(100):
            with pytest.raises(mx.MXNetError):
                net(mx.nd.ones((4, 7)))
        assert len(tried) == same
        assert runs(net, 200) > 50
        assert len(tried) == same + 1


def test_tries_are_due_after_ever_more_calls():
    """0, 1, 2, 4, ... calls go by; what is known is looked for ever less often."""
    tries = Tries()
    waited = []
    for number in range(5):
        assert tries.due()
        tries.failed(((number,),))
        waited.append(0)
        while not tries.due():
            waited[-1] += 1
    assert waited == [0, 1, 2, 4, 8]
    looks = sum(tries.due() and tries.are_known(((3,),)) for _ in range(1000))
    assert looks < 30
    tries.succeeded()
    assert tries.due()
    assert not tries.are_known(((9,),))


@pytest.mark.parametrize("inline_below", [0, ALWAYS])
@pytest.mark.parametrize("way", ["block", "simple_bind"])
def test_a_failing_write_to_a_weight_is_told_of_by_mxnet(way, inline_below):
    """It is raised where the answer is read, and engines follow the next good write."""
    with binds(True, inline_below=inline_below):
        if way == "block":
            forward = net = _dense()
            weight = next(iter(net.collect_params().values())).data()
        else:
            symbol, args = _symbol()
            executor = symbol.bind(mx.cpu(), {**args, "data": good()}, grad_req="null")
            weight = args["fc_weight"]
            forward = lambda x: executor.forward(data=x)[0]  # noqa: E731
        assert runs(forward, 2) == 2
        value = weight.copy()
        expected = forward(good()).asnumpy()
        mx.nd.random.normal(0, -1, weight.shape, out=weight)
        answer = forward(good())
        with pytest.raises(mx.MXNetError, match="scale parameter"):
            answer.asnumpy()
        weight[:] = value
        assert_close(forward(good()), expected)
        assert runs(forward, 9) > 0


class _Optional(gluon.HybridBlock):
    def hybrid_forward(self, F: Any, x: Any, y: Any = None) -> Any:
        return F.relu(x) * 2 if y is None else F.relu(x) * 3 + y


def test_none_at_the_end_may_be_left_out():
    """MXNet takes both for the same call; another nesting is its error and costs no engine."""
    net = _hybridized(_Optional())
    with binds(True, inline_below=ALWAYS):
        net(good(), None)
        before = mxtrt.stats().engine_runs
        assert_close(net(good()), net(good(), None).asnumpy())
        for wrong in ((good(), good()), ([good()],)):
            with pytest.raises(ValueError, match="argument structure"):
                net(*wrong)
        net(good(), None)
        assert mxtrt.stats().engine_runs - before == 3


def test_a_hybridized_child_of_a_plain_parent():
    """The child is bound by itself; odd arrays reach MXNet through the parent too."""

    class Parent(gluon.Block):
        def __init__(self) -> None:
            super().__init__()
            self.child = _dense()

        def forward(self, x: Any) -> Any:
            return self.child(x).sum(axis=1)

    parent = Parent()
    with binds(True, inline_below=ALWAYS):
        assert runs(parent, 2) == 2
        assert_close(parent(good().tostype("csr")), parent(good()).asnumpy())


@pytest.mark.parametrize("inline_below", [0, ALWAYS])
def test_blocks_of_the_numpy_interface(inline_below):
    """Classic arrays, arrays without elements and without axes, before and after good ones."""
    with binds(True, inline_below=inline_below), mx.util.np_shape(True), mx.util.np_array(True):

        class Scaling(gluon.HybridBlock):
            def hybrid_forward(self, F: Any, x: Any) -> Any:
                return F.npx.relu(x) * 2 + 1

        for first in ((0, 6), (), SHAPE):
            net = _hybridized(Scaling())
            for shape in (first, SHAPE, (), (0, 6), (3, 0), SHAPE):
                x = mx.np.ones(shape)
                for given in (x, x.as_nd_ndarray()):
                    answer = net(given)
                    assert isinstance(answer, mx.np.ndarray)
                    assert answer.shape == shape
                    assert np.array_equal(answer.asnumpy(), 3 * np.ones(shape))


def test_other_threads_and_scopes():
    """A thread that records is MXNet's while others run engines; scopes are a thread's own."""
    net = _dense()
    seen: list[Any] = []

    def record() -> None:
        x = good()
        x.attach_grad()
        with autograd.record():
            y = net(x)
        y.backward()
        seen.append(abs(x.grad).sum().asscalar())

    with binds(True, inline_below=ALWAYS):
        assert runs(net, 2) == 2
        with autograd.pause(train_mode=False):
            thread = threading.Thread(target=record)
            thread.start()
            thread.join()
            assert runs(net, 2) == 2
    assert seen[0] > 0
