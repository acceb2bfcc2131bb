"""Builds in the background: MXNet answers meanwhile, and the engine takes over between requests."""

from __future__ import annotations

import ctypes
import logging
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import mxnet as mx
import numpy as np
import pytest
from support.conditions import full_disk
from support.encoder import UNITS, answers, batch, encoder, inputs
from support.networks import assert_close, plain

import mxtrt
from mxtrt.engines.onnxruntime import OnnxRuntime
from mxtrt.errors import EngineError
from mxtrt.plan import engine_node, later
from mxtrt.system import background
from mxtrt.weights.paging import in_host_memory, size_of

PATIENCE = 60

DATA = mx.sym.var("data")


class Builds:
    """Builds in the background, which a test holds up or has fail."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.free = threading.Event()
        self.free.set()
        self.begun = threading.Event()
        self.errors: list[Exception] = []
        self.after: Callable[[], None] = lambda: None  # called when one is done
        original = OnnxRuntime.build

        def build(engine: OnnxRuntime, request: Any) -> Any:
            if background.in_job():
                self.begun.set()
                self.free.wait(PATIENCE)
                if self.errors:
                    raise self.errors.pop()
            made = original(engine, request)
            if background.in_job():
                self.after()
            return made

        patch.setattr(OnnxRuntime, "build", build)

    def hold(self) -> None:
        """Have them wait until :meth:`release`."""
        self.begun.clear()
        self.free.clear()

    def release(self) -> None:
        """Have them go on, and wait until all are done."""
        self.free.set()
        assert mxtrt.ready(timeout=PATIENCE)


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> Iterator[Builds]:
    """Those of the test, with the option ``build`` as users have it."""
    monkeypatch.setenv("MXTRT_BUILD", "wait")
    made = Builds(monkeypatch)
    yield made
    made.release()


class Counted:
    """What happens in a block of code, by the counters."""

    def __enter__(self) -> Counted:
        self._before = mxtrt.stats()
        return self

    def __exit__(self, *_: object) -> None:
        now = mxtrt.stats()
        for name in ("builds", "rebuilds", "postponed", "fallbacks", "engine_runs", "refusals"):
            setattr(self, name, getattr(now, name) - getattr(self._before, name))

    @property
    def by_mxnet(self) -> tuple[int, int]:
        """Requests answered by MXNet meanwhile, and runs of engines."""
        return self.postponed, self.engine_runs


def asks(ask: Callable[[], Any], expected: np.ndarray, times: int = 1) -> Counted:
    """What happens when something is asked, with the right answer."""
    with Counted() as counted:
        for _ in range(times):
            assert_close(ask(), expected)
    return counted


def test_mxnet_answers_at_a_new_length_until_its_engine_is_there(block, builds):
    """Each request is counted; the report says what is being built."""
    first, other = answers(block, [8, 12])
    with mxtrt.options():
        assert asks(lambda: block(*inputs(8)), first).by_mxnet == (0, 1)
        builds.hold()
        assert asks(lambda: block(*inputs(12)), other, 3).by_mxnet == (3, 0)
        assert mxtrt.stats().building == 1
        (told,) = mxtrt.last_report().building
        assert told.endswith("for inputs (12, 2, 16) and (2,)")
        assert f"being built: {told}" in str(mxtrt.last_report())
        assert asks(lambda: block(*inputs(8)), first).by_mxnet == (0, 1)
        builds.release()
        seen = asks(lambda: block(*inputs(12)), other, 3)
        assert (seen.by_mxnet, seen.fallbacks, seen.builds) == ((0, 3), 0, 0)
    assert mxtrt.stats().building == 0
    assert mxtrt.last_report().building == []


def test_one_request_has_all_segments_built(block, builds):
    """The second one has its input shape from the first."""
    first, other = answers(block, [8, 12])
    with mxtrt.options(deny_ops="softmax"):
        asks(lambda: block(*inputs(8)), first)
        assert len(mxtrt.last_report().segments) == 2
        assert asks(lambda: block(*inputs(12)), other).by_mxnet == (1, 0)
        builds.release()
        assert asks(lambda: block(*inputs(12)), other).by_mxnet == (0, 2)


def test_no_length_is_left_to_mxnet(block, builds):
    """Whatever the order; one engine serves the lengths that the first one does not."""
    lengths = [8, *np.random.RandomState(0).permutation(np.arange(3, 40)).tolist()]
    expected = answers(block, lengths)
    with mxtrt.options(), Counted() as counted:
        for length, answer in zip(lengths, expected, strict=True):
            assert_close(block(*inputs(length)), answer)
        builds.release()
        for length, answer in zip(lengths, expected, strict=True):
            assert_close(block(*inputs(length)), answer)
            builds.release()
        with Counted() as again:
            for length, answer in zip(lengths, expected, strict=True):
                assert_close(block(*inputs(length)), answer)
    assert (counted.builds, counted.fallbacks) == (2, 0)
    assert again.by_mxnet == (0, len(lengths))


def test_more_shapes_in_turn_than_engines_are_kept_cost_ever_fewer_builds(builds):
    """Where each shape needs its own, and MXNet answers for those that were given up."""
    data = mx.sym.var("data")
    places = mx.sym.contrib.arange_like(data, axis=1)
    net = mx.gluon.SymbolBlock(mx.sym.broadcast_add(mx.sym.sqrt(data), mx.sym.cos(places)), data)
    net.hybridize()
    built = []
    with mxtrt.options(max_engines=2, precision="fp16", allow_ops="*"):
        for _ in range(3):
            with Counted() as counted:
                for length in [*range(3, 8)] * 40:
                    answer = np.ones((2, 1)) * (1 + np.cos(np.arange(length)))
                    assert_close(net(mx.nd.ones((2, length))), answer, 1e-2)
                    builds.release()
            built.append(counted.builds)
    assert built[2] <= 10 < built[0]
    assert counted.fallbacks == 0


def test_threads_that_ask_for_one_new_shape_have_one_engine_built(block, builds):
    """Eight of them, at once; none waits."""
    first, other = answers(block, [8, 12])
    seen: list[Any] = []
    with mxtrt.options():
        asks(lambda: block(*inputs(8)), first)
    builds.hold()

    def work() -> None:
        try:
            with mxtrt.options():
                seen.append(block(*inputs(12)).asnumpy())
        except Exception as error:
            seen.append(error)

    with Counted() as counted:
        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        builds.release()
    assert len(seen) == 8
    for answer in seen:
        assert_close(answer, other)
    assert (counted.by_mxnet, counted.builds) == ((8, 0), 1)
    with mxtrt.options():
        assert asks(lambda: block(*inputs(12)), other).by_mxnet == (0, 1)


def test_a_reshaped_executor_gets_its_engine_when_it_is_built(block, builds):
    """Until then it is MXNet's, and the other one goes on."""
    arrays = {name: p.data() for name, p in block.collect_params().items()}
    first, other = answers(block, [8, 12])
    data, valid = inputs(8)
    with mxtrt.options():
        executor = encoder().bind(
            mx.cpu(), {**arrays, "data": data, "valid": valid}, grad_req="null"
        )
    builds.hold()
    data, valid = inputs(12)
    reshaped = executor.reshape(allow_up_sizing=True, data=data.shape, valid=valid.shape)

    def ask() -> Any:
        return reshaped.forward(data=data, valid=valid)[0]

    assert asks(ask, other, 2).by_mxnet == (2, 0)
    assert not mxtrt.ready(reshaped, timeout=0)
    assert not mxtrt.ready(executor, timeout=0)  # they are of one family
    reshaped.forward(is_train=True, data=data, valid=valid)
    builds.release()
    seen = asks(ask, other, 2)
    assert (seen.by_mxnet, seen.fallbacks) == ((0, 2), 0)
    data, valid = inputs(8)
    assert asks(lambda: executor.forward(data=data, valid=valid)[0], first).by_mxnet == (0, 1)


def test_a_module_at_other_shapes(block, builds):
    """It reshapes its executor by itself."""
    first, other = answers(block, [8, 12])
    params = {name: p.data() for name, p in block.collect_params().items()}

    module = mx.mod.Module(encoder(), ("data", "valid"), None, context=mx.cpu())
    with mxtrt.options():
        module.bind(batch(8).provide_data, for_training=False)
        module.set_params(params, {})

        def ask(length: int) -> Any:
            module.forward(batch(length), is_train=False)
            return module.get_outputs()[0]

        assert asks(lambda: ask(8), first).by_mxnet == (0, 1)
        builds.hold()
        assert asks(lambda: ask(12), other, 2).by_mxnet == (2, 0)
        builds.release()
        assert asks(lambda: ask(12), other, 2).by_mxnet == (0, 2)


def test_the_buckets_of_a_bucketing_module(block, builds):
    """Only the first one is waited for."""
    expected = dict(zip((8, 12), answers(block, [8, 12]), strict=True))
    params = {name: p.data() for name, p in block.collect_params().items()}

    module = mx.mod.BucketingModule(
        lambda _length: (encoder(), ("data", "valid"), None), 12, context=mx.cpu()
    )
    with mxtrt.options():
        module.bind(batch(12).provide_data, for_training=False)
        module.set_params(params, {})

        def ask(length: int) -> Any:
            module.forward(batch(length), is_train=False)
            return module.get_outputs()[0]

        assert asks(lambda: ask(12), expected[12]).by_mxnet == (0, 1)
        builds.hold()
        assert asks(lambda: ask(8), expected[8], 2).by_mxnet == (2, 0)
        builds.release()
        assert asks(lambda: ask(8), expected[8], 2).by_mxnet == (0, 2)


@pytest.mark.parametrize("brief", [True, False])
def test_a_request_finds_the_engine_for_its_size_where_that_is_brief(builds, monkeypatch, brief):
    """It converts the graph, and nothing is built; otherwise a job does while MXNet answers."""
    monkeypatch.setattr(engine_node, "_BRIEF", 60.0 if brief else 0.0)
    monkeypatch.setattr(engine_node, "_BRIEFLY", 0.0)
    symbol = mx.sym.relu(mx.sym.Convolution(DATA, kernel=(3, 3), num_filter=4))
    net = mx.gluon.SymbolBlock(symbol, DATA)
    net.initialize()
    pictures = [mx.nd.random.uniform(shape=(1, 3, size, 9)) for size in (8, 9, 10)]
    expected = [net(x).asnumpy() for x in pictures]
    net.hybridize()
    seen = []
    with mxtrt.options():
        for x, answer in zip(pictures, expected, strict=True):
            seen.append(asks(lambda x=x: net(x), answer))
            builds.release()
    assert [one.by_mxnet for one in seen] == [(0, 1), *[(0, 1) if brief else (1, 0)] * 2]
    assert [one.builds for one in seen] == [1, 0, 0]


@pytest.mark.parametrize("way", ["block", "executor", "module"])
def test_weights_that_mxnet_moves_stay_where_engines_read_them(builds, way):
    """OneDNN puts its own into another layout in place: it has copies while an engine is built."""
    symbol = mx.sym.tanh(mx.sym.Convolution(DATA, kernel=(3, 3), num_filter=16))
    x = mx.nd.random.uniform(-1, 1, shape=(1, 16, 9, 9))
    with mxtrt.options():
        if way == "block":
            net = mx.gluon.SymbolBlock(symbol, DATA)
            net.initialize(mx.init.Uniform(0.1))
            net.hybridize()
            ask = lambda: net(x)  # noqa: E731
            ask()
            weight, bias = (parameter.data() for parameter in net.collect_params().values())
        else:
            module = mx.mod.Module(symbol, ["data"], None, context=mx.cpu())
            module.bind([("data", x.shape)], for_training=False)
            module.init_params(mx.init.Uniform(0.1))
            (executor,) = module._exec_group.execs
            ask = lambda: executor.forward(data=x)[0]  # noqa: E731
            if way == "module":
                ask = lambda: (module.forward(mx.io.DataBatch([x])), module.get_outputs()[0])[1]  # noqa: E731
            ask()
            _, weight, bias = executor.arg_arrays
        builds.hold()
        for _ in range(2):
            weight[:] *= 2
            bias[:] += 1
            copies = [x, weight.copy(), bias.copy()]
            with mxtrt.options(enabled=False):
                expected = symbol.bind(mx.cpu(), copies, grad_req="null").forward()[0].asnumpy()
            place = in_host_memory(weight)[0]
            before = ctypes.string_at(place, size_of(weight))
            assert asks(ask, expected, 3).by_mxnet == (3, 0)
            mx.nd.waitall()
            assert ctypes.string_at(place, size_of(weight)) == before
        builds.release()
        for _ in range(3):  # once the weights hold still
            asks(ask, expected)
            builds.release()
        assert asks(ask, expected, 3).by_mxnet == (0, 3)


@pytest.mark.parametrize("way", ["block", "executor"])
def test_states_that_mxnet_writes_to_at_each_forward_cost_no_build(builds, way):
    """Each forward of BatchNorm in MXNet counts as a write to them; it has copies meanwhile."""
    symbol = mx.sym.relu(mx.sym.BatchNorm(DATA, fix_gamma=False, name="norm"))
    x = mx.nd.random.uniform(-1, 1, shape=(2, 3, 4, 4))
    net = mx.gluon.SymbolBlock(symbol, DATA)
    net.initialize(mx.init.Uniform(0.5))
    net(x)
    params = {name: parameter.data() for name, parameter in net.collect_params().items()}
    params["norm_moving_var"][:] = 2
    old = net(x).asnumpy()
    net.hybridize()
    with mxtrt.options(allow_ops="*"):
        ask = lambda: net(x)  # noqa: E731
        if way == "executor":
            given = [{"data": x, **params}[name] for name in symbol.list_arguments()]
            states = [params[name] for name in symbol.list_auxiliary_states()]
            executor = symbol.bind(mx.cpu(), given, grad_req="null", aux_states=states)
            ask = lambda: executor.forward()[0]  # noqa: E731
        asks(ask, old)
        params["norm_beta"][:] += 1
        args = {name: params[name].copy() for name in symbol.list_arguments()[1:]}
        aux = {name: params[name].copy() for name in symbol.list_auxiliary_states()}
        (expected,) = plain(symbol, args, aux, data=x)
        builds.hold()
        assert asks(ask, expected, 3).by_mxnet == (3, 0)
        builds.release()
        seen = asks(ask, expected, 2)
    assert (seen.by_mxnet, seen.rebuilds) == ((0, 2), 1)


def test_a_block_waits_where_mxnet_keeps_no_threads_apart(block, builds, monkeypatch):
    """Its NaiveEngine runs operators at once, whatever other threads do with the arrays."""
    _, other = answers(block, [8, 12])
    monkeypatch.setenv("MXNET_ENGINE_TYPE", "NaiveEngine")
    with mxtrt.options():
        block(*inputs(8))
        assert asks(lambda: block(*inputs(12)), other).by_mxnet == (0, 1)


def test_a_symbol_of_optimize_for_waits(block, builds):
    """It has no operators of MXNet's beside its engines."""
    arrays = {name: p.data() for name, p in block.collect_params().items()}
    _, other = answers(block, [8, 12])
    data, valid = inputs(8)
    args = {**arrays, "data": data, "valid": valid}
    symbol = encoder().optimize_for("TensorRT", args, {}, mx.cpu(), data_names="data,valid")
    data, valid = inputs(12)
    given = {"data": data, "valid": valid}
    with Counted() as counted:
        executor = symbol.bind(
            mx.cpu(), {name: given[name] for name in symbol.list_arguments()}, grad_req="null"
        )
        assert_close(executor.forward()[0], other)
    assert counted.by_mxnet == (0, 1)
    assert mxtrt.ready(symbol)


@pytest.mark.parametrize("way", ["block", "bind", "simple_bind"])
def test_no_bind_is_waited_for_with_background(block, builds, way):
    """Nor is the first one."""
    arrays = {name: p.data() for name, p in block.collect_params().items()}
    (first,) = answers(block, [8])
    data, valid = inputs(8)
    builds.hold()
    with mxtrt.options(build="background"), Counted() as counted:
        if way == "block":
            what, ask = block, lambda: block(data, valid)
        elif way == "bind":
            given = {**arrays, "data": data, "valid": valid}
            what = encoder().bind(mx.cpu(), given, grad_req="null")
            ask = lambda: what.forward()[0]  # noqa: E731
        else:
            what = encoder().simple_bind(
                mx.cpu(), grad_req="null", data=data.shape, valid=valid.shape
            )
            what.copy_params_from(arrays)
            ask = lambda: what.forward(data=data, valid=valid)[0]  # noqa: E731
        assert asks(ask, first, 2).by_mxnet == (2, 0)
        assert not mxtrt.ready(what, timeout=0)
        builds.release()
        assert asks(ask, first, 2).by_mxnet == (0, 2)
    assert (counted.refusals, counted.builds) == (0, 1)


def change(block: mx.gluon.SymbolBlock, factor: float) -> None:
    """Have the answers of the block be so many times what they were."""
    for name in ("out_weight", "out_bias"):
        weight = block.collect_params()[name]
        weight.set_data(weight.data() * factor)


def test_weights_that_change_are_in_the_answer_at_once(block, builds):
    """MXNet's first, then that of an engine with the new ones."""
    (old,) = answers(block, [8])
    with mxtrt.options():
        assert asks(lambda: block(*inputs(8)), old).by_mxnet == (0, 1)
        change(block, 2)
        builds.hold()
        seen = asks(lambda: block(*inputs(8)), 2 * old, 3)
        assert seen.by_mxnet == (3, 0)
        assert "with the present weights" in str(mxtrt.last_report())
        builds.release()
        seen = asks(lambda: block(*inputs(8)), 2 * old, 3)
        assert (seen.by_mxnet, seen.rebuilds, seen.fallbacks) == ((0, 3), 1, 0)


def test_weights_that_change_during_the_build_are_never_served_stale(block, builds):
    """What was built is of neither the old nor the new ones: it is built again."""
    (old,) = answers(block, [8])
    with mxtrt.options():
        asks(lambda: block(*inputs(8)), old)
        change(block, 2)
        builds.hold()
        asks(lambda: block(*inputs(8)), 2 * old)
        assert builds.begun.wait(PATIENCE)
        change(block, 2)
        assert asks(lambda: block(*inputs(8)), 4 * old).by_mxnet == (1, 0)
        builds.release()
        for _ in range(3):  # once the weights hold still
            asks(lambda: block(*inputs(8)), 4 * old)
            builds.release()
        assert asks(lambda: block(*inputs(8)), 4 * old, 2).by_mxnet == (0, 2)


def test_weights_that_change_during_the_build_for_a_new_shape(block, builds):
    """Its engine has the new ones, the other one the old ones: it is not used."""
    first, other = answers(block, [8, 12])
    with mxtrt.options():
        asks(lambda: block(*inputs(8)), first)
        builds.hold()
        asks(lambda: block(*inputs(12)), other)
        assert builds.begun.wait(PATIENCE)
        change(block, 2)
        builds.release()
        change(block, 0.5)
        for _ in range(3):
            asks(lambda: block(*inputs(12)), other)
            asks(lambda: block(*inputs(8)), first)
            builds.release()
        assert asks(lambda: block(*inputs(12)), other, 2).by_mxnet == (0, 2)
        assert asks(lambda: block(*inputs(8)), first, 2).by_mxnet == (0, 2)


def test_weights_that_change_during_the_build_and_back_again(block, builds):
    """What was built is of those in between, though the weights are what they were."""
    (old,) = answers(block, [8])
    with mxtrt.options():
        asks(lambda: block(*inputs(8)), old)
        change(block, 2)
        builds.hold()
        asks(lambda: block(*inputs(8)), 2 * old)
        assert builds.begun.wait(PATIENCE)
        change(block, 2)
        builds.after = lambda: (change(block, 0.5), setattr(builds, "after", lambda: None))
        builds.release()
        for _ in range(3):  # once the weights hold still
            asks(lambda: block(*inputs(8)), 2 * old)
            builds.release()
        assert asks(lambda: block(*inputs(8)), 2 * old, 2).by_mxnet == (0, 2)


@pytest.mark.parametrize("length", [8, 12])
@pytest.mark.parametrize("way", ["block", "executor"])
def test_a_request_waits_where_weights_are_written_to_during_build_after_build(
    block, builds, length, way
):
    """For the changed weights, or for another length."""
    first, answer = answers(block, [8, length])
    params = {name: p.data() for name, p in block.collect_params().items()}
    with mxtrt.options():
        if way == "block":
            asks(lambda: block(*inputs(8)), first)
            ask = lambda: block(*inputs(length))  # noqa: E731
        else:
            data, valid = inputs(8)
            given = {**params, "data": data, "valid": valid}
            executor = encoder().bind(mx.cpu(), given, grad_req="null")
            data, valid = inputs(length)
            if length != 8:
                executor = executor.reshape(
                    allow_up_sizing=True, data=data.shape, valid=valid.shape
                )
            ask = lambda: executor.forward(data=data, valid=valid)[0]  # noqa: E731
        if length == 8:
            asks(ask, answer)
            change(block, 2)
            answer = 2 * answer
        builds.after = lambda: change(block, 1)
        seen = []
        for _ in range(later.MOST_OUTDATED + 2):
            seen.append(asks(ask, answer).by_mxnet)
            builds.release()
    assert seen == [(1, 0)] * later.MOST_OUTDATED + [(0, 1)] * 2


def test_a_build_that_fails_now_and_then_is_tried_again(block, builds, caplog):
    """Without a warning: MXNet answers meanwhile."""
    first, other = answers(block, [8, 12])
    with mxtrt.options(), caplog.at_level(logging.WARNING, "mxtrt"):
        asks(lambda: block(*inputs(8)), first)
        builds.errors += [MemoryError("bad_alloc"), EngineError("no memory")]
        for _ in range(2):
            assert asks(lambda: block(*inputs(12)), other).by_mxnet == (1, 0)
            builds.release()
        assert asks(lambda: block(*inputs(12)), other).by_mxnet == (1, 0)
        builds.release()
        assert asks(lambda: block(*inputs(12)), other).by_mxnet == (0, 1)
    assert caplog.records == []


@pytest.mark.parametrize("way", ["block", "executor"])
def test_a_build_that_fails_again_and_again_is_given_up(block, builds, caplog, way):
    """These shapes are MXNet's, said once; the others have their engine."""
    arrays = {name: p.data() for name, p in block.collect_params().items()}
    first, other = answers(block, [8, 12])
    with mxtrt.options(), caplog.at_level(logging.WARNING, "mxtrt"), warnings.catch_warnings():
        warnings.simplefilter("ignore", mxtrt.MxtrtWarning)
        usual, ask = (lambda: block(*inputs(8))), (lambda: block(*inputs(12)))
        failures = [EngineError("the engine takes no such thing")] * 20
        if way == "executor":
            data, valid = inputs(8)
            given = {**arrays, "data": data, "valid": valid}
            bound = encoder().bind(mx.cpu(), given, grad_req="null")
            data, valid = inputs(12)
            builds.errors += failures
            reshaped = bound.reshape(allow_up_sizing=True, data=data.shape, valid=valid.shape)
            usual = lambda: bound.forward(data=inputs(8)[0], valid=inputs(8)[1])[0]  # noqa: E731
            ask = lambda: reshaped.forward(data=data, valid=valid)[0]  # noqa: E731
        asks(usual, first)
        builds.errors = builds.errors or failures
        for _ in range(later.MOST_TRIES + 2):
            asks(ask, other)
            builds.free.set()
            assert mxtrt.ready(timeout=PATIENCE)
        left = len(builds.errors)
        seen = asks(ask, other, 3)
        assert (seen.postponed, seen.engine_runs, seen.fallbacks) == (0, 0, 3)
        assert mxtrt.ready(timeout=0)
        assert len(builds.errors) == left == 20 - later.MOST_TRIES
        assert asks(usual, first).by_mxnet == (0, 1)
    builds.errors.clear()


def test_a_rebuild_that_fails_again_and_again_leaves_the_block_to_mxnet(block, builds):
    """With the engine's words."""
    (old,) = answers(block, [8])
    with mxtrt.options(), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", mxtrt.MxtrtWarning)
        asks(lambda: block(*inputs(8)), old)
        change(block, 2)
        builds.errors += [EngineError("no memory for that")] * 20
        for _ in range(later.MOST_TRIES + 3):
            assert asks(lambda: block(*inputs(8)), 2 * old).engine_runs == 0
            assert mxtrt.ready(timeout=PATIENCE)
        assert len(builds.errors) == 20 - later.MOST_TRIES
    builds.errors.clear()
    assert [str(one.message) for one in warned] == [
        "the graph runs as plain MXNet: no memory for that"
    ]


def test_the_disk_is_full_when_weights_are_to_be_released(builds, caplog):
    """The engine is there all the same, and the weights take memory twice, which is said."""
    net, x = mx.gluon.nn.Dense(600), mx.nd.random.uniform(shape=(2, 300))
    net.initialize(mx.init.Uniform(0.3))
    net.hybridize()
    old = net(x).asnumpy()
    net.hybridize()
    with mxtrt.options():
        asks(lambda: net(x), old)
        net.weight.set_data(net.weight.data() * 2)
        with full_disk(0), caplog.at_level(logging.WARNING, "mxtrt"):
            asks(lambda: net(x), 2 * old)
            builds.release()
        assert asks(lambda: net(x), 2 * old).by_mxnet == (0, 1)
    (record,) = caplog.records
    assert "no spill file could be written" in record.getMessage()


def test_waiting_for_one_thing_does_not_wait_for_another(block, builds):
    """Nor longer than asked for."""
    other = mx.gluon.SymbolBlock(encoder(), [mx.sym.var("data"), mx.sym.var("valid")])
    other.initialize()
    outer = mx.gluon.nn.HybridSequential()
    outer.add(block)
    first, _ = answers(block, [8, 12])
    with mxtrt.options():
        asks(lambda: block(*inputs(8)), first)
        builds.hold()
        block(*inputs(12))
        assert not mxtrt.ready(block, timeout=0.01)
        assert not mxtrt.ready(outer, timeout=0)
        assert not mxtrt.ready(timeout=0)
        assert mxtrt.ready(other)
        builds.free.set()
        assert mxtrt.ready(block)
    assert mxtrt.ready()


def test_data_of_a_wrong_shape_are_told_of_by_mxnet_and_nothing_is_built(block, builds):
    """The next request has its engine."""
    (first,) = answers(block, [8])
    with mxtrt.options():
        asks(lambda: block(*inputs(8)), first)
        wrong = mx.nd.ones((8, 2, UNITS + 1)), mx.nd.array([8, 4])
        for _ in range(2):
            with pytest.raises(mx.MXNetError):
                block(*wrong)
            assert mxtrt.ready(timeout=0)
        assert asks(lambda: block(*inputs(8)), first).by_mxnet == (0, 1)
