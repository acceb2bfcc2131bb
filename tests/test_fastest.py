"""prefer="fastest": segments whose engine is slower than MXNet go back to MXNet."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import mxnet as mx
import numpy as np
import planted
import pytest
from networks import assert_close, classifier, images, mixed, parameters, plain
from planted import plant
from test_verify import bound

import mxtrt
from mxtrt import fastest
from mxtrt.perf.paired import paired

X = images()


def take(monkeypatch: pytest.MonkeyPatch, engine: float, mxnet: float) -> None:
    """Have every forward take so many seconds, by a clock that only they move."""
    now, timed = [0.0], fastest._timed

    def taking(call, seconds):
        def forward():
            call()
            now[0] += seconds

        return forward

    clock = SimpleNamespace(perf_counter=lambda: now[0])
    monkeypatch.setattr(fastest, "time", clock)
    monkeypatch.setattr("mxtrt.perf.paired.time", clock)
    monkeypatch.setattr(fastest, "_timed", lambda a, b: timed(taking(a, engine), taking(b, mxnet)))


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
