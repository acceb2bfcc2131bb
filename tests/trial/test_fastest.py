"""prefer="fastest": segments whose engine is slower than MXNet go back to MXNet."""

from __future__ import annotations

import itertools
import time
from types import SimpleNamespace

import mxnet as mx
import numpy as np
import pytest
from support import planted
from support.binds import bound
from support.networks import assert_close, classifier, images, mixed, parameters, plain
from support.planted import plant

import mxtrt
from mxtrt.engines.onnxruntime import OnnxRuntime
from mxtrt.engines.tensorrt import TensorRT
from mxtrt.offline.inspection import typed_graph
from mxtrt.timing.paired import paired
from mxtrt.trial import fastest

X = images()


def take(monkeypatch: pytest.MonkeyPatch, engine: float, mxnet: float) -> None:
    """Have every forward take so many seconds, by a clock that only they move."""
    now, timed = [0.0], fastest._timed

    def taking(call, seconds):
        def forward():
            call()
            now[0] += seconds

        return forward

    def by_this_clock(ours, plain, _clock=None):
        return timed(taking(ours, engine), taking(plain, mxnet), lambda: now[0])

    monkeypatch.setattr(fastest, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(fastest.time, "process_time", lambda: 0.0, raising=False)
    monkeypatch.setattr(fastest, "_timed", by_this_clock)


def measured(
    monkeypatch: pytest.MonkeyPatch, *pairs: tuple[float, float], noise: float = 1
) -> None:
    """Have every measurement come out like this, over and over: seconds of MXNet and the engine."""
    controls = [(1.0, noise), (1.0, 1.0)]
    found = paired(np.array(pairs * 16), np.array(controls * 16))
    monkeypatch.setattr(fastest, "_timed", lambda *_: (found, 2))


@pytest.mark.parametrize("way", ["bind", "simple_bind", "optimize_for", "gluon"])
def test_a_segment_that_mxnet_runs_faster_stays_in_mxnet(monkeypatch, way):
    """All of its nodes, with both times as the reason; MXNet's numbers."""
    symbol = classifier()
    args, aux = parameters(symbol, data=X.shape)
    take(monkeypatch, engine=0.5, mxnet=0.25)
    monkeypatch.setenv("MXTRT_PREFER", "fastest")
    with mxtrt.options():
        answer, report = bound(symbol, way, args, aux)
    assert_close(answer, plain(symbol, args, aux, data=X)[0])
    assert report.segments == []
    (reason,) = {node.reason for node in report.left}
    assert reason == "prefer=fastest: its segment takes 500 ms in the engine and 250 ms in MXNet"


@pytest.mark.parametrize(
    ("way", "inline_below"),
    [("bind", 0), ("bind", 10**6), ("simple_bind", 10**6), ("optimize_for", 0), ("gluon", 10**6)],
)
def test_a_segment_that_the_engine_runs_faster_keeps_it(monkeypatch, way, inline_below):
    """The report has both times."""
    symbol = classifier()
    args, aux = parameters(symbol, data=X.shape)
    take(monkeypatch, engine=0.25, mxnet=0.5)
    with mxtrt.options(prefer="fastest", inline_below=inline_below):
        answer, report = bound(symbol, way, args, aux)
    assert_close(answer, plain(symbol, args, aux, data=X)[0])
    assert report.left == []
    (note,) = report.segments[0].notes
    assert note == "timed: 250 ms in the engine, 500 ms in MXNet"


def test_new_weights_are_not_measured_again(monkeypatch):
    """Once per bind."""
    symbol = classifier()
    take(monkeypatch, engine=0.25, mxnet=0.5)
    with mxtrt.options(prefer="fastest"):
        executor = symbol.simple_bind(mx.cpu(), grad_req="null", data=X.shape)
    for seed in range(2):
        args, aux = parameters(symbol, seed=seed, data=X.shape)
        executor.copy_params_from(args, aux)
        for _ in range(2):
            assert_close(executor.forward(data=X)[0], plain(symbol, args, aux, data=X)[0])
        monkeypatch.setattr(fastest, "compare", lambda *_: pytest.fail("measured again"))


def test_only_the_slower_segments_go(monkeypatch):
    """Measured one by one; several at once do not need a build each."""
    symbol = mixed()
    args, aux = parameters(symbol, data=X.shape)
    real, before = fastest.compare, mxtrt.stats()

    def compare(node, *rest):
        faster = "second" in node.report.nodes
        measured(monkeypatch, (2.0, 1.0) if faster else (1.0, 2.0))
        real(node, *rest)

    monkeypatch.setattr(fastest, "compare", compare)
    with mxtrt.options(prefer="fastest"):
        executor = symbol.bind(mx.cpu(), {"data": X, **args}, grad_req="null", aux_states=aux)
    for seen, right in zip(executor.forward(), plain(symbol, args, aux, data=X), strict=True):
        assert_close(seen, right)
    report = mxtrt.last_report()
    assert [segment.notes for segment in report.segments] == [
        ["timed: 500 ms in the engine, 1e+03 ms in MXNet"]
    ]
    slower = "prefer=fastest: its segment takes 1e+03 ms in the engine and 500 ms in MXNet"
    assert "first" in [node.name for node in report.left if node.reason == slower]
    # The segment that stays is the one that was there before the other went.
    assert mxtrt.stats().builds == before.builds + 2
    assert mxtrt.stats().shared == before.shared + 1

    # What came of it holds for another bind at these shapes.
    monkeypatch.setattr(fastest, "compare", lambda *_: pytest.fail("timed again"))
    with mxtrt.options(prefer="fastest"):
        again = symbol.bind(mx.cpu(), {"data": X, **args}, grad_req="null", aux_states=aux)
    for seen, right in zip(again.forward(), plain(symbol, args, aux, data=X), strict=True):
        assert_close(seen, right)
    told = mxtrt.last_report()
    assert [segment.notes for segment in told.segments] == [s.notes for s in report.segments]
    assert [node.reason for node in told.left] == [node.reason for node in report.left]


@pytest.mark.parametrize("prefer", ["fastest", "auto"])
def test_a_model_is_timed_at_few_input_shapes(monkeypatch, prefer):
    """Then the nearest decides: detectors bind for ever new sizes of images."""
    monkeypatch.setattr(fastest, "is_open", lambda _: True)
    symbol = classifier()
    args, aux = parameters(symbol, data=X.shape)
    timed = []

    def compare(node, *_):
        timed.append(node.graph.nodes[0].types[0].shape[0])
        return "slower, says the test" if timed[-1] < 8 else ""

    monkeypatch.setattr(fastest, "_compare", compare)
    for batch, kept in ((1, False), (2, False), (16, True), (3, False), (12, True), (40, True)):
        x, builds = images(batch), mxtrt.stats().builds
        given = {"data": x, "softmax_label": mx.nd.zeros((batch,)), **args}
        with mxtrt.options(prefer=prefer):
            executor = symbol.bind(mx.cpu(), given, grad_req="null", aux_states=aux)
        report = mxtrt.last_report()
        assert bool(report.segments) is kept
        assert_close(executor.forward()[0], plain(symbol, args, aux, data=x)[0])
        assert all(node.reason == "slower, says the test" for node in report.left)
        if batch == 3:
            assert mxtrt.stats().builds == builds
    assert timed == [1, 2, 16]
    assert report.segments[0].notes == [
        "timed at other input shapes, where the engine is not slower"
    ]


@pytest.mark.parametrize(
    ("pairs", "noise", "kept"),
    [
        ([(1.0, 1.0)], 1, True),
        ([(1.0, 1.1), (1.1, 1.0)], 1, True),
        ([(1.0, 1.02)], 1, True),
        ([(1.0, 1.04)], 1, False),
        ([(1.0, 1.04)], 1.1, True),
        ([(1.0, 1.2)], 1.1, False),
        ([(1.0, 1.1), (1.0, 1.2), (1.1, 1.0)], 1, False),
    ],
)
def test_in_doubt_the_engine_stays(monkeypatch, pairs, noise, kept):
    """Slower is beyond 3 %, beyond the noise of the measurement, and all of the interval."""
    measured(monkeypatch, *pairs, noise=noise)
    with mxtrt.options(prefer="fastest", allow_ops="*"):
        mx.sym.relu(mx.sym.var("data")).simple_bind(mx.cpu(), grad_req="null", data=(4,)).forward()
    assert bool(mxtrt.last_report().segments) == kept


def test_short_forwards_take_turns_of_many(monkeypatch):
    """So that the threads of one way, which spin for a moment, do not slow the other."""
    take(monkeypatch, engine=2**-12, mxnet=2**-10)
    calls: list[str] = []
    found, forwards = fastest._timed(lambda: calls.append("a"), lambda: calls.append("b"))
    assert forwards == 20
    assert found.mxtrt_ms == forwards * 1000 / 2**12
    assert found.ratio == pytest.approx(4)
    turns = [len(list(turn)) for _, turn in itertools.groupby(calls[4:])]
    assert all(turn % forwards == 0 for turn in turns)


@pytest.mark.parametrize(
    ("options", "note"),
    [({"prefer": "fastest"}, "not timed: "), ({"verify": True}, "not verified: ")],
)
def test_what_mxnet_does_not_run_keeps_its_engine(options, note):
    """Without it there would be no answer: float16 on a CPU, for example."""
    data = mx.sym.var("data", dtype="float16")
    symbol = mx.sym.Convolution(data, num_filter=4, kernel=(3, 3), no_bias=True, name="conv")
    given = {
        "data": X.astype("float16"),
        "conv_weight": mx.nd.random.uniform(-1, 1, (4, 3, 3, 3)).astype("float16"),
    }
    with mxtrt.options(**options):
        executor = symbol.bind(mx.cpu(), given, grad_req="null")
    wide = {name: array.astype("float32") for name, array in given.items()}
    expected = mx.nd.Convolution(
        wide["data"], wide["conv_weight"], num_filter=4, kernel=(3, 3), no_bias=True
    )
    assert_close(executor.forward()[0].astype("float32"), expected, 2e-3)
    (segment,) = mxtrt.last_report().segments
    assert segment.notes[-1].startswith(note + "MXNet does not run it: ")


def test_an_engine_that_does_not_run_is_found_at_bind(monkeypatch):
    """Before a request: the segment stays in MXNet."""
    symbol = classifier()
    args, aux = parameters(symbol, data=X.shape)
    plant(monkeypatch, "Relu", planted.failing)
    with mxtrt.options(prefer="fastest"):
        answer, report = bound(symbol, "bind", args, aux)
    assert_close(answer, plain(symbol, args, aux, data=X)[0])
    assert all("its engine does not run: ONNX" in node.reason for node in report.left)


# -- prefer="auto" ---------------------------------------------------------------------------


def dense(units: int = 512, rows: int = 32) -> tuple[mx.sym.Symbol, tuple[int, ...]]:
    """A layer of which nobody knows beforehand who is faster, and the shape of its data."""
    data = mx.sym.var("data")
    return mx.sym.FullyConnected(data, num_hidden=units, name="dense"), (rows, units)


def bind(symbol: mx.sym.Symbol, shape: tuple[int, ...], **options: object) -> mxtrt.Report:
    """Bind, run and report."""
    args, aux = parameters(symbol, data=shape)
    x = mx.nd.random.uniform(-1, 1, shape=shape)
    with mxtrt.options(**{"prefer": "auto", "engine": "onnxruntime", **options}):
        executor = symbol.bind(mx.cpu(), {"data": x, **args}, grad_req="null", aux_states=aux)
        report = mxtrt.last_report()
    assert_close(executor.forward()[0], plain(symbol, args, aux, data=x)[0], 1e-3)
    return report


def chain(*layers: object) -> mx.sym.Symbol:
    """Layers one after the other."""
    symbol = mx.sym.var("data")
    for layer in layers:
        symbol = layer(symbol)
    return symbol


def conv(filters: int = 64, **attrs: object) -> object:
    """A convolution."""
    attrs = {"kernel": (3, 3), "num_filter": filters, **attrs}
    return lambda x: mx.sym.Convolution(x, **attrs)


IMAGES = (1, 64, 32, 32)


@pytest.mark.parametrize(
    ("layers", "shape", "expected"),
    [
        ((conv(),), IMAGES, True),
        ((conv(4),), (1, 3, 32, 32), False),
        ((conv(), mx.sym.BatchNorm), IMAGES, False),
        ((conv(), mx.sym.BatchNorm, conv(), conv()), IMAGES, True),
        ((conv(128, num_group=8), mx.sym.BatchNorm), IMAGES, True),
        ((conv(num_group=64), mx.sym.BatchNorm), IMAGES, False),
        ((lambda x: mx.sym.FullyConnected(x, num_hidden=1000),), (64, 512), True),
        ((lambda x: mx.sym.FullyConnected(x, num_hidden=10),), (64, 512), False),
        ((lambda x: mx.sym.FullyConnected(x, num_hidden=64, flatten=False),), (64, 64, 64), True),
        ((mx.sym.exp, mx.sym.softmax), (64, 1024, 64), False),
    ],
)
def test_auto_times_large_products_without_normalisations(layers, shape, expected):
    """Where either may be faster, depending on sizes and machine."""
    graph = typed_graph(chain(*layers), {"data": shape})
    assert fastest.is_open(graph) == expected


def test_auto_times_recurrent_layers():
    """Their weights are one vector, used at every step of every sequence."""
    data, weights = mx.sym.var("data"), mx.sym.var("weights")
    states = [mx.sym.zeros((1, 16, 64))] * 2
    layer = mx.sym.RNN(data, weights, *states, mode="lstm", state_size=64, num_layers=1)
    assert fastest.is_open(typed_graph(layer, {"data": (50, 16, 64)}))
    assert not fastest.is_open(typed_graph(layer, {"data": (2, 16, 64)}))


def test_by_default_a_slower_product_stays_in_mxnet(monkeypatch):
    """With both times in the report, and no warning."""
    take(monkeypatch, engine=0.5, mxnet=0.25)
    monkeypatch.delenv("MXTRT_PREFER")
    assert mxtrt.Options().prefer == "auto"
    (node,) = bind(*dense()).left
    assert node.reason == "prefer=auto: its segment takes 500 ms in the engine and 250 ms in MXNet"


@pytest.mark.parametrize(
    ("options", "change", "note"),
    [
        ({}, ("_MOST_WEIGHTS", 1024), "not timed: MXNet would need a copy of the weights"),
        ({}, ("_LONGEST_FORWARD", -1), "not timed: a forward takes 0 s"),
        ({"prefer": "engine"}, None, None),
        ({"precision": "fp16"}, None, None),
    ],
)
def test_auto_does_not_time_what_takes_long_or_was_asked_for(monkeypatch, options, change, note):
    """The engine stays; nothing is measured."""
    take(monkeypatch, engine=0.5, mxnet=0.25)
    monkeypatch.setattr(fastest, "_timed", lambda *_: pytest.fail("measured"))
    if change is not None:
        monkeypatch.setattr(fastest, *change)
    (segment,) = bind(*dense(), **options).segments
    assert [text for text in segment.notes if "timed" in text] == ([note] if note else [])


def test_auto_does_not_time_other_engines(monkeypatch):
    """TensorRT's are on another device than MXNet's operators for the CPU."""
    monkeypatch.setattr(OnnxRuntime, "on_cpu", TensorRT.on_cpu)
    monkeypatch.setattr(fastest, "compare", lambda *_: pytest.fail("measured"))
    assert bind(*dense()).left == []


def test_two_pairs_are_enough_for_the_faster_engine(monkeypatch):
    """Four forwards of either, warming up included."""
    calls: list[str] = []
    take(monkeypatch, engine=0.25, mxnet=0.5)
    fastest._timed(lambda: calls.append("engine"), lambda: calls.append("mxnet"))
    assert sorted(calls) == ["engine"] * 4 + ["mxnet"] * 4


@pytest.mark.parametrize(
    ("allowed", "threads", "clock"),
    [
        (1, 0, "process_time"),
        (1, 1, "process_time"),
        (2, 0, "perf_counter"),
        (1, 2, "perf_counter"),
    ],
)
def test_one_thread_is_timed_by_the_cpu_time(monkeypatch, allowed, threads, clock):
    """Other processes that want the core make no difference then."""
    clocks = []
    timed = fastest._timed
    monkeypatch.setattr(
        fastest, "_timed", lambda a, b, clock: [clocks.append(clock), timed(a, b, clock)][1]
    )
    monkeypatch.setattr(fastest.cores, "threads", lambda: allowed)
    bind(*dense(), threads=threads)
    assert clocks == [getattr(time, clock)]


@pytest.mark.parametrize("engine", [0.25, 1.0])
def test_what_was_timed_is_neither_timed_nor_built_again(monkeypatch, engine):
    """A symbol that is bound anew, in this process."""
    take(monkeypatch, engine=engine, mxnet=0.5)
    symbol, shape = dense()
    first = bind(symbol, shape)
    monkeypatch.setattr(fastest, "compare", lambda *_: pytest.fail("timed again"))
    builds = mxtrt.stats().builds
    second = bind(symbol, shape)
    assert [node.reason for node in second.left] == [node.reason for node in first.left]
    assert [s.notes for s in second.segments] == [s.notes for s in first.segments]
    assert bool(second.segments) == (engine < 0.5)
    assert mxtrt.stats().builds == builds
