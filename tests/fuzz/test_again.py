"""Later calls of cases: which sizes go together, what is written, and what wrong answers are."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import mxnet as mx
import numpy as np
import pytest
from hypothesis import given, settings

from mxtrt.graph.symbol import Entry
from mxtrt_fuzz import again
from mxtrt_fuzz.calls import NO_WRITES, enlarged, weights_at
from mxtrt_fuzz.execute import Observation, Setup, observe
from mxtrt_fuzz.generate import cases
from mxtrt_fuzz.graphs import BINDS, WRITES, Call, Case, Operation, Tensor, Variable
from mxtrt_fuzz.oracle import Oracle, Verdict
from mxtrt_fuzz.reduce import reduce_case
from mxtrt_fuzz.report import FuzzReport
from mxtrt_fuzz.values import weight_arrays

SETUP = Setup(masks=("none",), exactness=False)


def dense(bind: str, *calls: Call) -> Case:
    """A layer after an operator that writes a size into its model."""
    nodes = (
        Variable("data0", Tensor((2, 3, 4))),
        Operation(
            "repeat", "op0", (("axis", "1"), ("repeats", "2")), (Entry(0),), (Tensor((2, 6, 4)),)
        ),
        Variable("weight0", Tensor((5, 4)), "weight"),
        Variable("weight1", Tensor((5,)), "weight"),
        Operation(
            "FullyConnected",
            "op1",
            (("flatten", "False"), ("num_hidden", "5")),
            (Entry(1), Entry(2), Entry(3)),
            (Tensor((2, 6, 5)),),
        ),
    )
    return Case(nodes, (Entry(4),), bind, calls=calls)


def applied(op: str, shapes: list[tuple[int, ...]], attrs: dict[str, str] | None = None) -> Case:
    """An operator on inputs of some shapes."""
    data = [Variable(f"data{place}", Tensor(shape)) for place, shape in enumerate(shapes)]
    reads = tuple(Entry(place) for place in range(len(shapes)))
    items = tuple(sorted((attrs or {}).items()))
    node = Operation(op, "op0", items, reads, (Tensor(shapes[-1]),))
    made = Case((*data, node), (Entry(len(data)),))
    return enlarged(made, Call()) or made


@pytest.mark.parametrize(
    ("op", "shapes", "attrs", "alone"),
    [
        ("where", [(4, 3), (4, 3), (4, 3)], {}, ("data0", 0, 2)),
        ("where", [(4,), (4, 3), (4, 3)], {}, ("data0", 0, 2)),
        ("slice_like", [(4, 3), (4, 3)], {}, ("data1", 0, 2)),
        (
            "_contrib_interleaved_matmul_selfatt_valatt",
            [(4, 1, 6), (2, 4, 4)],
            {"heads": "2"},
            ("data0", 0, 1),
        ),
        ("Reshape", [(4, 3)], {"shape": "(2, 6)"}, ("data0", 0, 1)),
        ("elemwise_add", [(4, 3), (4, 3)], {}, ("data0", 1, 1)),
    ],
    ids=["where", "where of rows", "slice_like", "attention", "reshape", "addition"],
)
def test_sizes_that_do_not_go_together_are_not_called(
    op: str, shapes: list[tuple[int, ...]], attrs: dict[str, str], alone: tuple[str, int, int]
) -> None:
    """MXNet's inference lets most of these pass, and its kernels read beyond their inputs."""
    assert enlarged(applied(op, shapes, attrs), Call((alone,))) is None


def test_sizes_that_grow_together_are_called() -> None:
    """All axes of a size, in all inputs."""
    case = applied("where", [(4, 3), (4, 3), (4, 3)])
    made = enlarged(case, Call(tuple((f"data{place}", 0, 2) for place in range(3))))
    assert made is not None
    assert made.tensor(made.heads[0]).shape == (6, 3)
    gone = Call((("data7", 0, 2), ("data0", 9, 2)))  # of a case that was reduced
    assert enlarged(case, gone) == case


def test_enlarged_shapes_are_those_that_mxnet_infers() -> None:
    """Of the cases that are drawn; and most sizes that are drawn are taken."""
    seen = []

    @settings(derandomize=True, max_examples=150, deadline=None, database=None)
    @given(cases())
    def collect(case: Case) -> None:
        for number, call in enumerate(case.calls):
            if call.grown:
                made = enlarged(case, call)
                parts: Any = None if made is None else again._is_taken(mx, made, case, number, {})
                seen.append(bool(parts))

    collect()
    assert len(seen) > 50
    assert np.mean(seen) > 0.7


def test_calls_are_drawn_often() -> None:
    """Other sizes, other weights, and both; by the seed, so that shrinking leaves them."""
    drawn: list[Case] = []

    @settings(derandomize=True, max_examples=400, deadline=None, database=None)
    @given(cases())
    def collect(case: Case) -> None:
        drawn.append(case)

    collect()
    sizes = np.array([any(call.grown for call in case.calls) for case in drawn])
    weights = np.array([any(call.written for call in case.calls) for case in drawn])
    assert sizes.mean() > 0.15
    assert weights.mean() > 0.15
    assert (sizes & weights).mean() > 0.05
    assert {how for c in drawn for call in c.calls for _, how in call.written} == {*WRITES}
    for case in drawn:
        assert ("calls" in case.to_dict()) == bool(case.calls)


@pytest.mark.parametrize("how", WRITES)
@pytest.mark.parametrize("bind", [way for way in BINDS if way not in NO_WRITES])
def test_every_way_to_write_is_seen(bind: str, how: str) -> None:
    """By MXNet, and by engines: at the sizes of the bind and at others, two times."""
    larger = (("data0", 1, 2),)
    writes = (("weight0", how),)
    case = dense(
        bind, Call(), Call((), writes), Call(larger, writes), Call(larger), Call(larger, writes)
    )
    seen = observe(case, SETUP)
    assert [answer.number for answer in seen.again] == [0, 1, 2, 3, 4]
    grown = [bool(call.grown) for call in case.calls]
    if (bind, how) == ("c_cached_op", "load"):  # other arrays from then on: MXNet's to answer
        assert [answer.runs for answer in seen.again] == [(1, 1)] + [(0, 0)] * 4
    else:
        assert [answer.runs for answer in seen.again] == [(1, 0 if one else 1) for one in grown]
    assert not Oracle(lambda c: observe(c, SETUP)).judge(case, seen).failures
    for number in (1, 2, 4):
        weights = [weights_at(case, turn, {})["weight0"] for turn in (number - 1, number)]
        changed = (weights[0] != weights[1]).any(1)
        assert changed.tolist() == [True] + [how != "row"] * 4


@pytest.mark.parametrize("bind", NO_WRITES)
def test_a_symbol_that_holds_its_weights_is_called_at_other_sizes(bind: str) -> None:
    """Writes are passed over."""
    case = dense(bind, Call((("data0", 1, 2),), (("weight0", "assign"),)))
    seen = observe(case, SETUP)
    assert [head.shape for head in seen.again[0].plain] == [(2, 10, 5)]
    assert np.array_equal(weights_at(case, 0, {})["weight0"], weight_arrays(case)["weight0"])
    assert not Oracle(lambda c: observe(c, SETUP)).judge(case, seen).failures


def judged(case: Case, change: Callable[[again.Answer], again.Answer]) -> Verdict:
    """The verdict where later answers are other ones."""
    seen: Observation = observe(case, SETUP)
    seen.again = [change(answer) for answer in seen.again]
    return Oracle(lambda c: observe(c, SETUP)).judge(case, seen)


def test_wrong_later_answers_are_failures() -> None:
    """A value, a shape, an exception, an engine that does not run any more."""
    writes = (("weight0", "set"),)
    case = dense("gluon", Call((("data0", 1, 2),)), Call((), writes))

    def off(by: float) -> Callable[[again.Answer], again.Answer]:
        return lambda a: dataclasses.replace(
            a, ours=(*a.ours[:-1], tuple(x + by for x in a.ours[-1]))
        )

    assert not judged(case, off(0)).failures
    assert not judged(case, off(1e-6)).failures
    (failure,) = judged(case, off(1e-3)).failures
    assert str(failure.signature) == "again-grown_value-mxtrt-FullyConnected-float32"
    (failure,) = judged(case, lambda a: dataclasses.replace(a, ours=("OSError: gone",))).failures
    assert failure.signature.symptom == "grown_outcome"
    (failure,) = judged(case, lambda a: dataclasses.replace(a, runs=(0, 1))).failures
    assert failure.signature.symptom == "grown_left_to_mxnet"
    (failure,) = judged(
        case, lambda a: dataclasses.replace(a, plain=tuple(x + 1 for x in a.plain))
    ).failures
    assert failure.signature.blamed == "mxnet"


def test_calls_are_counted() -> None:
    """In the report, with those at sizes that do not go together."""
    calls = (Call((("data0", 1, 2),)), Call((("data0", 2, 1),)), Call((), (("weight1", "row"),)))
    case, report = dense("bind", *calls), FuzzReport()
    report.add(case, observe(case, SETUP), Verdict())
    assert report.to_dict()["again"] == {
        "calls at other sizes": 1,
        "calls not taken": 1,
        "calls with other weights": 1,
        "cases at other sizes": 1,
        "cases with both": 1,
        "cases with other weights": 1,
    }


def test_a_failing_case_keeps_the_calls_that_it_needs() -> None:
    """The others go, and what is other at them."""
    larger = (("data0", 1, 2), ("data0", 0, 1))
    case = dense("bind", Call(larger), Call(larger, (("weight0", "set"), ("weight1", "set"))))

    def fails(one: Case) -> bool:
        return any("weight1" in dict(call.written) for call in one.calls)

    assert reduce_case(case, fails).calls == (Call((), (("weight1", "set"),)),)
