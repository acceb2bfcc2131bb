"""Engines for ranges of shapes are compared with MXNet before they answer a request."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import mxnet as mx
import pytest
from support.ranged import Net, pictures, rounding_up, texts

import mxtrt
from mxtrt import config
from mxtrt.config import Options
from mxtrt.engines import Session
from mxtrt.engines.ranges import Profile, Ranges
from mxtrt.errors import EngineError
from mxtrt.plan import engine_node, proofs
from mxtrt.plan.proofs import Proofs, WrongError, compared_at
from mxtrt.trial import ranged as trial
from mxtrt.trial.indices import IndicesError


def test_a_wrong_engine_for_ranges_is_not_used(ranged, tmp_path):
    """Each shape has an engine of its own, and every answer is MXNet's."""
    ranged.changes = lambda request: rounding_up(request, 1)
    net = Net(texts(), tmp_path)
    before = mxtrt.stats().fallbacks
    for length in (12, 17, 9, 12, 17):
        net.is_right((1, length, 6))
    assert [ranges is None for ranges in ranged.ranges] == [True, False, True, True]
    assert mxtrt.stats().fallbacks == before
    (note,) = net.node.report.notes
    begin, end = "every input shape has an engine of its own: its answer at ", " from MXNet's"
    assert note.startswith(f"{begin}input shapes (1, 17, 6) is ")
    assert note.endswith(f" tolerances{end}")


def test_one_that_is_right_at_the_shapes_that_came_is_found_out(ranged, tmp_path):
    """It is wrong at others."""
    ranged.changes = lambda request: rounding_up(request, 1)
    net = Net(texts(), tmp_path)
    for length in (16, 32, 17, 9):
        net.is_right((1, length, 6))
    assert [ranges is None for ranges in ranged.ranges] == [True, False, True, True, True]
    assert "its answer at input shapes (1, 9, 6) is " in net.node.report.notes[0]


def test_one_that_was_asked_for_is_compared_too(ranged, tmp_path):
    """At the bind."""
    ranged.changes = lambda request: rounding_up(request, 3)
    net = Net(pictures(), tmp_path, shapes="data:1,3,16-64,16-64")
    for size in (32, 17, 80):
        net.is_right((1, 3, size, size))
    assert [ranges is None for ranges in ranged.ranges] == [False, True, True, True]
    assert net.node.report.notes[0].startswith("every input shape has an engine of its own: its ")


def test_a_right_one_stays_when_a_wider_one_is_wrong(ranged, tmp_path):
    """Only what is outside of it has engines of its own."""
    wide = 100
    ranged.changes = lambda request: (
        rounding_up(request, 2)
        if request.ranges and request.ranges.largest[0][2] > wide
        else request
    )
    net = Net(pictures(), tmp_path)
    for size in (32, 40, 128, 36, 64):
        net.is_right((1, 3, size, size))
    assert [ranges is None for ranges in ranged.ranges] == [True, False, False, True]
    assert net.node.report.notes[-1].startswith("every further input shape has an engine of its")


def test_new_weights_are_compared_anew(ranged, tmp_path):
    """With MXNet's answers for them."""
    net = Net(pictures(), tmp_path)
    for size in (32, 40):
        net.is_right((1, 3, size, size))
    ranged.changes = lambda request: rounding_up(request, 2)
    for parameter in net.net.collect_params().values():
        parameter.set_data(parameter.data() * 2)
    for size in (32, 40, 36):
        net.is_right((1, 3, size, size))
    assert net.node.report.notes[-1].startswith("every input shape has an engine of its own: its ")


def test_no_request_waits_where_builds_are_in_the_background(ranged, tmp_path):
    """MXNet answers until there is a right engine."""
    ranged.changes = lambda request: rounding_up(request, 1)
    net = Net(texts(), tmp_path, build="wait")
    for length in (12, 17, 17, 9, 9, 17):
        net.is_right((1, length, 6))
        assert mxtrt.ready(timeout=60)
    assert [ranges is None for ranges in ranged.ranges] == [True, False, True, True]
    assert net.node.report.notes[-1].startswith("every input shape has an engine of its own: its ")


@pytest.mark.parametrize("built", [False, True])
def test_weights_that_change_during_the_comparison_are_no_reason(
    ranged, tmp_path, monkeypatch, built
):
    """The engine was of other weights, and another one is built; also where there was one."""
    net = Net(texts(), tmp_path, build="wait")
    net.is_right((1, 12, 6))
    if built:
        net.is_right((1, 17, 6))
        assert mxtrt.ready(timeout=60)
        for parameter in net.net.collect_params().values():
            parameter.set_data(parameter.data() * 2)
    values_for, changes = trial.values_for, iter((True,))

    def change(*args: Any) -> Any:
        if next(changes, False):
            for parameter in net.net.collect_params().values():
                parameter.set_data(parameter.data() * 2)
        return values_for(*args)

    monkeypatch.setattr(trial, "values_for", change)
    for length in (17, 17, 17, 12, 9, 17):
        net.is_right((1, length, 6))
        assert mxtrt.ready(timeout=60)
    assert ranged.ranges[-1] is not None
    assert net.node.report.notes[-1].startswith("one engine for data 1x(")


def test_engines_that_an_outdated_build_did_not_come_to_are_built_by_the_next(ranged, tmp_path):
    """Those of the weights before answer no request."""
    ranged.refuses = lambda request: "no ranges" if request.ranges else None
    net = Net(pictures(), tmp_path, build="wait")
    sizes = (32, 40, 36)
    for size in sizes:
        net.is_right((1, 3, size, size))
        assert mxtrt.ready(timeout=60)
    dense = net.plain.collect_params()["dense_weight"]
    turns = iter((False, True))  # written to again while the second of three engines is built

    def write(request: Any) -> Any:
        if next(turns, False):
            dense.set_data(dense.data() * 2)
            mx.nd.waitall()
        return request

    ranged.changes = write
    dense.set_data(dense.data() * 3)
    for size in 3 * sizes:
        net.is_right((1, 3, size, size))
        assert mxtrt.ready(timeout=60)
    assert next(turns, None) is None
    before = mxtrt.stats()
    for size in sizes:
        net.is_right((1, 3, size, size))
    after = mxtrt.stats()
    assert (after.postponed, after.engine_runs) == (before.postponed, before.engine_runs + 3)


def test_a_request_finds_the_ranges_that_contain_its_shapes(ranged, tmp_path, monkeypatch):
    """Without waiting for a build, and without MXNet."""
    monkeypatch.setattr(engine_node, "_BRIEF", 60.0)
    net = Net(texts(), tmp_path, build="wait")
    for length in (12, 17):
        net.is_right((1, length, 6))
        assert mxtrt.ready(timeout=60)
    before = mxtrt.stats()
    for length in (20, 8):
        net.is_right((1, length, 6))
    after = mxtrt.stats()
    assert (after.postponed, after.builds) == (before.postponed, before.builds)
    net.is_right((1, 80, 6))
    assert mxtrt.ready(timeout=60)
    assert mxtrt.stats().postponed == before.postponed + 1
    assert [ranges is None for ranges in ranged.ranges] == [True, False, False]


def test_what_cannot_be_compared_is_not_used(ranged, tmp_path, monkeypatch):
    """Its reason is in the report."""

    def refuse(*_: Any) -> Any:
        raise IndicesError("its lengths or indices depend on its data")

    monkeypatch.setattr(trial, "values_for", refuse)
    net = Net(pictures(), tmp_path)
    for size in (32, 40):
        net.is_right((1, 3, size, size))
    assert [ranges is None for ranges in ranged.ranges] == [True, False, True]
    (note,) = net.node.report.notes
    assert note == (
        "every input shape has an engine of its own: it cannot be compared with MXNet at input "
        "shapes (1, 3, 40, 40): its lengths or indices depend on its data"
    )


def test_shapes_at_which_mxnet_takes_long_are_left_out(ranged, tmp_path, monkeypatch):
    """But for that of the request."""
    at: list[tuple[int, ...]] = []
    run = trial.run_session

    def record(session: Session, graph: Any, inputs: Any, gpu: Any) -> Any:
        at.append(inputs[0].shape)
        return run(session, graph, inputs, gpu)

    monkeypatch.setattr(trial, "run_session", record)
    net = Net(pictures(), tmp_path / "one")
    for size in (32, 40):
        net.is_right((1, 3, size, size))
    assert at == [(1, 3, 40, 40), (1, 3, 17, 17), (1, 3, 35, 35), (1, 3, 79, 79)]
    at.clear()
    monkeypatch.setattr(trial, "_MOST_SECONDS", 0)
    net = Net(pictures(), tmp_path / "other")
    for size in (32, 40):
        net.is_right((1, 3, size, size))
    assert at == [(1, 3, 40, 40)]


def test_the_numbers_of_int8_are_not_compared(ranged, tmp_path, monkeypatch):
    """They are rounded as calibrated."""
    monkeypatch.setattr(trial, "UNITS", {})
    ranged.changes = lambda request: rounding_up(request, 3)
    net = Net(pictures(), tmp_path, shapes="data:1,3,16-64,16-64")
    net.is_right((1, 3, 32, 32))
    assert [ranges is None for ranges in ranged.ranges] == [False]


def test_an_engine_is_compared_once(tmp_path):
    """Whichever process did so; without a cache this one remembers."""
    kept = config.current().replace(cache_dir=str(tmp_path))
    nothing = kept.replace(cache_size=0)
    assert comparisons(kept, "one", "one", "two") == 2
    assert comparisons(nothing, "one", "three", "three") == 1
    proofs._right.clear()  # another process
    assert comparisons(kept, "one", "two") == 0
    assert comparisons(nothing, "one", "three") == 2


def test_an_engine_without_a_name_is_compared_each_time(tmp_path):
    """It may be another one."""
    assert comparisons(config.current().replace(cache_dir=str(tmp_path)), "", "") == 2


def comparisons(options: Options, *contents: str) -> int:
    """How often sessions of these contents are compared, one after the other."""
    compared: list[str] = []
    for content in contents:
        prove(options, content, lambda *_: compared.append("now"))
    return len(compared)


def prove(options: Options, content: str, compare: Callable[..., None]) -> None:
    """Prove an engine for lengths."""
    made = Proofs(options)
    made.compare = compare
    segment = SimpleNamespace(digest_at=lambda at: "model", graph_at=lambda at: None)
    ranges = Ranges((profile(6, 34),), (((0, 1),),))
    shapes = ((2, 12, 6),)
    made.prove(None, Session(0, content=content), segment, ranges, shapes, "model")  # type: ignore[arg-type]


def test_a_wrong_engine_is_compared_again(tmp_path):
    """Nothing is kept of it."""

    def wrong(*_: Any) -> None:
        raise EngineError("its answer is wrong")

    options = config.current().replace(cache_dir=str(tmp_path))
    for _ in range(2):
        with pytest.raises(WrongError, match="its answer is wrong"):
            prove(options, "four", wrong)
    assert comparisons(options, "four") == 1


def profile(low: int, high: int) -> Profile:
    """Of lengths."""
    return Profile(((2, low, 6),), ((2, low, 6),), ((2, high, 6),))


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([(6, 34)], [12, 7, 33]),
        ([(16, 32), (16, 256)], [12, 17, 31, 255]),
        ([(1, 12)], [12, 3, 11]),
    ],
)
def test_every_profile_is_compared_at_sizes_that_are_odd(lengths, expected):
    """Those that are a multiple of something may be right by chance."""
    ranges = Ranges(tuple(profile(*one) for one in lengths), (((0, 1),),))
    found = compared_at(ranges, ((2, 12, 6),), lambda shapes: True)
    assert [shapes[0][1] for shapes in found] == expected


def test_shapes_that_the_model_is_not_for_are_left_out():
    """They have another engine."""
    ranges = Ranges((profile(6, 34),), (((0, 1),),))
    found = compared_at(ranges, ((2, 12, 6),), lambda shapes: shapes[0][1] > 10)
    assert [shapes[0][1] for shapes in found] == [12, 33]
