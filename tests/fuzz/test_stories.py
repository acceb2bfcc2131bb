"""Stories: what happens to objects that are bound of one graph, one step after another."""

from __future__ import annotations

import pytest
from support.in_process import InProcess

import mxtrt
from mxtrt.graph.symbol import Entry
from mxtrt_fuzz.execute import Observation, Setup
from mxtrt_fuzz.graphs import STEPS, STORY_WRITES, Case, Operation, Step, Tensor, Variable
from mxtrt_fuzz.oracle import Oracle
from mxtrt_fuzz.reduce import reduce_case


@pytest.fixture
def dense() -> Case:
    """A layer with a weight and a state that training changes."""
    four, layer = Tensor((4,)), Tensor((2, 4))
    names = "gamma", "beta", "mean", "var"
    roles = "weight", "weight", "aux", "aux"
    nodes = (
        Variable("data0", Tensor((2, 3))),
        Variable("weight", Tensor((4, 3)), "weight"),
        Operation(
            "FullyConnected",
            "dense",
            (("no_bias", "True"), ("num_hidden", "4")),
            (Entry(0), Entry(1)),
            (layer,),
        ),
        *(Variable(n, four, role, 0.5, 2.0) for n, role in zip(names, roles, strict=True)),
        Operation(
            "BatchNorm",
            "norm",
            (("fix_gamma", "False"),),
            (Entry(2), Entry(3), Entry(4), Entry(5), Entry(6)),
            (layer,),
        ),
    )
    return Case(nodes, (Entry(7),), inline=True)


def played(case: Case, *story: Step) -> Observation:
    """What comes of a story in ONNX Runtime."""
    return InProcess(Setup("onnxruntime"))(case.replace(story=story))


def test_every_step_is_answered_as_in_plain_mxnet(dense: Case) -> None:
    """In order, at other sizes too; the last object is the only one left."""
    grown = (("data0", 0, 3),)
    seen = played(
        dense,
        Step("bind", 0, "gluon"),
        Step("call", 0, "held"),
        Step("call", 0, "", (), grown),
        Step("share", 0),
        Step("train", 0),
        Step("bind", 1, "simple_bind"),
        *(Step("write", 0, how, ("weight",)) for how in STORY_WRITES),
        *(Step("write", 2, how, ("weight", "mean")) for how in STORY_WRITES),
        Step("together"),
        Step("reload", 2),
        Step("drop", 0),
        Step("fail"),
        Step("bind", 0, "module", ("BatchNorm",)),
    )
    assert not seen.played.wrong
    assert not Oracle(InProcess()).judge(dense.replace(story=(Step("bind"),)), seen).failures
    assert seen.played.answers > 50


@pytest.mark.parametrize("way", ["bind", "gluon", "gluon_static", "module", "optimize_for"])
def test_nothing_is_left_of_what_was_dropped(dense: Case, way: str) -> None:
    """In any way to bind."""
    assert not played(dense, Step("bind", 0, way), Step("call"), Step("drop")).played.wrong


def test_a_step_of_an_object_that_is_not_there_is_passed_over(dense: Case) -> None:
    """So that a story can be made shorter; objects keep their numbers."""
    seen = played(
        dense,
        Step("call", 3),
        Step("share", 0),
        Step("bind", 0, "bind"),
        Step("write", 0, "assign", ("weight",)),
        Step("write", 1, "assign", ("weight",)),
    )
    assert not seen.played.wrong
    assert seen.played.answers == 3


def test_a_wrong_answer_names_the_step(dense: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that does not follow writes."""
    monkeypatch.setattr(mxtrt.plan.freshness.Freshness, "current", lambda self: True)
    story = Step("bind", 0, "bind"), Step("write", 0, "operator", ("weight",))
    case = dense.replace(story=story)
    executor = InProcess(Setup("onnxruntime"))
    failures = Oracle(executor).judge(case, executor(case)).failures
    assert str(failures[0].signature) == "story-write_value-mxtrt-BatchNorm-float32"
    assert "step 1, write operator of object 0" in failures[0].detail


def test_a_story_is_plain_data(dense: Case) -> None:
    """As JSON, and another story is another case."""
    grown = (("data0", 0, 3),)
    story = tuple(Step(what, 1, "set", ("weight",), grown) for what in STEPS)
    case = dense.replace(story=story)
    assert Case.from_json(case.to_json()) == case
    assert case.digest != dense.digest
    with pytest.raises(ValueError, match="step"):
        Case.from_json(case.to_json().replace('"share"', '"no such"'))


def test_a_story_is_made_shorter(dense: Case) -> None:
    """While it fails: here as long as it has a write after a bind."""

    def fails(case: Case) -> bool:
        steps = [step.what for step in case.story]
        return "bind" in steps and "write" in steps[steps.index("bind") :]

    steps = "bind", "call", "share", "write", "drop", "call"
    story = tuple(Step(what, 0, "bind", ("weight", "gamma")) for what in steps)
    smallest = reduce_case(dense.replace(story=story), fails)
    assert smallest.story == (Step("bind", 0, "bind"), Step("write", 0, "assign", ("weight",)))
