"""Engines of one process are found by content."""

from __future__ import annotations

import gc
import threading

import mxnet as mx
import numpy as np
import pytest
from support.networks import assert_close, classifier, images, parameters, plain

import mxtrt
from mxtrt.engines import shared
from mxtrt.engines.shared import shared_sessions
from mxtrt.plan.plan import live_plans

X = images(size=64)  # the dense weights are large enough to be paged out
SYMBOL = classifier()
ARGS, AUX = parameters(SYMBOL, data=X.shape)


def served(args: dict = ARGS, x: mx.nd.NDArray = X, **options: object) -> mx.executor.Executor:
    """An executor with copies of these weights that has answered."""
    with mxtrt.options(**options):
        executor = SYMBOL.simple_bind(mx.cpu(), grad_req="null", data=x.shape)
        executor.copy_params_from(args, AUX)
        executor.forward(data=x)[0].wait_to_read()
    return executor


def check(executor: mx.executor.Executor, args: dict = ARGS, x: mx.nd.NDArray = X) -> None:
    """Its answers are plain MXNet's with these weights."""
    expected = plain(SYMBOL, args, AUX, data=x)[0]
    for _ in range(3):
        assert_close(executor.forward(data=x)[0], expected)


def other(seed: int = 3) -> dict:
    """Other weights."""
    return parameters(SYMBOL, seed=seed, data=X.shape)[0]


def sessions() -> set[int]:
    """The sessions in use."""
    gc.collect()
    return {id(session) for plan in live_plans() for session in plan.sessions()}


@pytest.mark.parametrize("release", [True, False])
@pytest.mark.parametrize("inline", [0, 10**6])
def test_a_second_bind_of_equal_weights_builds_nothing(release, inline):
    """Other arrays, another batch size: one engine answers for both."""
    options = {"release_weights": release, "inline_below": inline}
    before = sessions()
    one = served(**options)
    builds, found = mxtrt.stats().builds, mxtrt.stats().shared
    x = images(5, size=64)
    two = served(x=x, **options)
    assert (mxtrt.stats().builds, mxtrt.stats().shared) == (builds, found + 1)
    assert len(sessions() - before) == 1
    check(one)
    check(two, x=x)


def test_a_third_bind_to_the_same_arrays_reads_none_of_them():
    """They were paged out, and stay there."""
    given = {**{name: array.copy() for name, array in ARGS.items()}, "data": X}
    given["softmax_label"] = mx.nd.zeros((2,))
    states = {name: array.copy() for name, array in AUX.items()}
    bound = []
    for _ in range(3):
        with mxtrt.options():
            bound.append(SYMBOL.bind(mx.cpu(), given, grad_req="null", aux_states=states))
    size = given["dense_weight"].size * 4
    assert mxtrt.memory().totals["file"] > 0.9 * size
    for executor in bound:
        assert_close(executor.forward()[0], plain(SYMBOL, ARGS, AUX, data=X)[0])
    given["dense_weight"][:] = other()["dense_weight"]
    expected = plain(SYMBOL, {**ARGS, "dense_weight": other()["dense_weight"]}, AUX, data=X)[0]
    for executor in bound:
        assert_close(executor.forward()[0], expected)


@pytest.mark.parametrize("written", [0, 1])
@pytest.mark.parametrize("name", ["dense_weight", "conv_bias"])
def test_a_write_to_the_weights_of_one_leaves_the_others_right(written, name):
    """The engine reads the first one's arrays; whichever is written to, each follows its own."""
    executors = [served(), served(), served()]
    changed = {**ARGS, name: other()[name]}
    changed[name].copyto(executors[written].arg_dict[name])
    for place in (2, 1, 0, 1, 2):
        check(executors[place], changed if place == written else ARGS)
    ARGS[name].copyto(executors[written].arg_dict[name])
    for executor in executors:
        check(executor)


def test_the_first_one_may_go():
    """Its weights stay where the engine reads them, whatever is allocated next."""
    first, second = served(), served()
    del first
    gc.collect()
    noise = [mx.nd.full(ARGS["dense_weight"].shape, 7) for _ in range(20)]
    mx.nd.waitall()
    check(second)
    del noise
    third = served()
    del second
    gc.collect()
    check(third)


def test_an_engine_outlives_its_last_user_for_a_while():
    """Who drops one executor and binds the next one builds nothing; the ledger shows it."""
    del_me = served()
    builds = mxtrt.stats().builds
    del del_me
    gc.collect()
    idle = [h for h in mxtrt.memory().holdings if h.owner == "idle engines"]
    size = sum(a.size * 4 for a in (*ARGS.values(), *AUX.values()))
    assert [h.bytes for h in idle if h.what == "engine"] == [size]
    check(served())
    assert mxtrt.stats().builds == builds


def test_few_and_small_engines_are_kept_idle(monkeypatch):
    """The last four, and none beyond the limit of bytes."""
    for seed in range(6):
        served(other(seed))
    gc.collect()
    assert len(shared_sessions().kept()) == shared.MOST_IDLE
    monkeypatch.setattr(shared_sessions()._recent, "_size", 1000)
    served(other(7))
    gc.collect()
    assert len(shared_sessions().kept()) == shared.MOST_IDLE
    builds = mxtrt.stats().builds
    served(other(7))
    assert mxtrt.stats().builds == builds + 1


def test_weights_that_were_set_again_leave_no_engine_behind():
    """The engine of the old values cannot be found any more, so it is not kept."""
    executor = served()
    for seed in range(3, 7):
        args = other(seed)
        executor.copy_params_from(args, AUX)
        check(executor, args)
    gc.collect()
    assert len(shared_sessions().kept()) == 1


def test_an_engine_that_failed_is_not_found():
    """A bind after the failure gets one of its own."""
    executor = served(inline_below=0)
    (session,) = executor._mxtrt.symbol.plan.sessions()
    executor._mxtrt.symbol.plan.nodes[0].retire("the test says so")
    builds = mxtrt.stats().builds
    again = served()
    assert mxtrt.stats().builds == builds + 1
    assert again._mxtrt.symbol.plan.sessions() != [session]
    check(again)


def test_a_symbol_of_optimize_for_shares_with_nobody():
    """Nothing follows its weights, so an engine that reads those of others would not do."""
    executor = served()
    builds = mxtrt.stats().builds
    given = {name: array.copy() for name, array in ARGS.items()}
    states = {name: array.copy() for name, array in AUX.items()}
    partitioned = SYMBOL.optimize_for("TensorRT", {"data": X, **given}, states, mx.cpu())
    assert mxtrt.stats().builds == builds + 1
    executor.copy_params_from(other(), AUX)
    answer = partitioned.bind(mx.cpu(), {"data": X}).forward()[0]
    assert_close(answer, plain(SYMBOL, ARGS, AUX, data=X)[0])


def test_threads_that_bind_equal_weights_at_once_share_one_engine():
    """Each with an executor of its own; one builds, the others wait for it."""
    before, builds = sessions(), mxtrt.stats().builds
    threads = 4
    barrier, executors, failed = threading.Barrier(threads), [], []

    def bind() -> None:
        try:
            barrier.wait()
            executor = served()
            executors.append(executor)
            for _ in range(5):
                executor.forward(data=X)[0].wait_to_read()
        except BaseException as error:
            failed.append(error)

    served(other(9))  # what is loaded at a first bind
    builds = mxtrt.stats().builds
    running = [threading.Thread(target=bind) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert not failed
    for executor in executors:
        check(executor)
    assert mxtrt.stats().builds == builds + 1
    assert len(sessions() - before) == 1


def test_a_predictor_whose_image_size_changes_builds_once():
    """FeedForward.predict binds for every new shape, and drops the executor before."""
    net = mx.sym.Convolution(mx.sym.var("data"), num_filter=4, kernel=(3, 3), name="conv")
    weights, _ = parameters(net, data=(1, 3, 16, 16))
    builds = mxtrt.stats().builds
    with pytest.warns(DeprecationWarning, match="FeedForward"):
        model = mx.model.FeedForward(net, arg_params=weights, aux_params={})
    with mxtrt.options(allow_ops="*"):
        for size in (16, 24, 20, 16, 24):
            x = np.random.RandomState(size).uniform(-1, 1, (1, 3, size, size))
            seen = model.predict(x.astype(np.float32))
            assert_close(seen, plain(net, weights, {}, data=mx.nd.array(x))[0])
    assert mxtrt.stats().builds == builds + 1


def test_a_graph_bound_before_at_these_shapes_is_not_partitioned_again(monkeypatch):
    """Neither with the same weights nor with others; with other shapes or options it is."""
    from mxtrt.plan import graph_pass

    seen = []
    analyse = graph_pass.analyse

    def counted(*args: object, **kwargs: object) -> object:
        seen.append(args)
        return analyse(*args, **kwargs)

    monkeypatch.setattr(graph_pass, "analyse", counted)
    served()
    for args in (ARGS, other()):
        check(served(args), args)
    assert len(seen) == 1
    served(x=images(5, size=64))
    assert len(seen) == 2
    denied = served(deny_ops="Convolution")
    assert len(seen) == 3
    assert mxtrt.last_report().nodes_in_engine == 6
    check(denied)
