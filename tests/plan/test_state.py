"""Where a bound thing stands, and what follows on what."""

from __future__ import annotations

import pytest

from mxtrt.plan.state import Stage, State

WAYS = {
    Stage.UNBUILT: (),
    Stage.BUILDING: (Stage.BUILDING,),
    Stage.BUILT: (Stage.BUILDING, Stage.BUILT),
    Stage.LEFT: (Stage.LEFT,),
    Stage.RETIRED: (Stage.BUILDING, Stage.RETIRED),
}


def at(stage: Stage) -> State:
    """A state at a stage."""
    state = State()
    for step in WAYS[stage]:
        assert state.to(step)
    return state


@pytest.mark.parametrize("stage", Stage)
def test_only_what_is_built_may_answer(stage: Stage) -> None:
    """Whatever the way there was."""
    assert at(stage).built == (stage is Stage.BUILT)


@pytest.mark.parametrize("final", [Stage.LEFT, Stage.RETIRED])
@pytest.mark.parametrize("stage", Stage)
def test_a_final_stage_stays(final: Stage, stage: Stage) -> None:
    """A build that ends after an engine failed does not bring the engine back."""
    state = at(final)
    assert state.to(stage) == (stage is final)
    assert state.stage is final


def test_nothing_is_built_without_a_build() -> None:
    """Neither at first nor after a build that failed."""
    state = State()
    assert not state.to(Stage.BUILT)
    assert state.to(Stage.BUILDING)
    assert state.to(Stage.UNBUILT)
    assert not state.to(Stage.BUILT)


def test_the_reasons_of_all_engines_that_failed_are_kept() -> None:
    """Two engines of one plan may fail before the next forward."""
    state = at(Stage.BUILT)
    assert state.to(Stage.RETIRED, {"conv": "no memory"})
    assert state.to(Stage.RETIRED, {"dense": "no memory"})
    assert set(state.reasons) == {"conv", "dense"}
