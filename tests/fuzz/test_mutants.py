"""The oracle is tested: every seeded mutant is caught, and how many examples that takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from support.in_process import InProcess

from mxtrt_fuzz.corpus import reproducers
from mxtrt_fuzz.execute import Setup
from mxtrt_fuzz.generate import cases, client_cases, operator_cases
from mxtrt_fuzz.graphs import Case
from mxtrt_fuzz.hunt import Hunt
from mxtrt_fuzz.mutants import MUTANTS, Mutant
from mxtrt_fuzz.report import FuzzReport
from mxtrt_fuzz.stories import stories

CORPUS = Path(__file__).parents[2] / "fuzz" / "corpus"

_EXAMPLES = 300


class _Caught(BaseException):
    """Ends a hunt at its first failure."""


open_bugs = [reproducer for reproducer in reproducers(CORPUS) if reproducer.open]


def _stop(report: FuzzReport) -> None:
    if new(report):
        raise _Caught


def new(report: FuzzReport) -> list[str]:
    """Signatures that are not known to be open."""
    return sorted(set(report.found) - {reproducer.signature for reproducer in open_bugs})


def hunted(
    strategy: st.SearchStrategy[Case], examples: int = _EXAMPLES, exact: bool = False
) -> FuzzReport:
    """A hunt in this process, where the mutant is, until the first failure."""
    hunt = Hunt(
        InProcess(Setup(masks=("none", "drawn"), exactness=exact)),
        examples=examples,
        strategy=strategy,
        progress=_stop,
        explained=[reproducer.signature for reproducer in open_bugs],
        shrink=False,
    )
    try:
        return hunt.run()
    except _Caught:
        return hunt.report


@pytest.fixture(autouse=True)
def quiet(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """MXNet writes a line at every bind."""
    yield
    capfd.readouterr()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_mutant_is_killed(mutant: Mutant, table: Callable[..., Any]) -> None:
    """By the lane of the operator that it is in, or by whole graphs."""
    lanes = [operator_cases(name) for name in mutant.operators]
    whole = client_cases([mutant.way]) if mutant.way else cases()
    whole = stories() if mutant.story else whole
    strategy = st.one_of(lanes) if lanes else whole
    with mutant.planted():
        report = hunted(strategy, exact=mutant.exact)
    table(
        "Mutants",
        mutant=mutant.name,
        room=mutant.room,
        examples=report.graphs,
        signature=", ".join(new(report)) or "SURVIVED",
    )
    assert new(report), f"{mutant.name} survived {report.graphs} graphs"


def test_without_a_mutant_nothing_is_found() -> None:
    """The same hunts on mxtrt as it is."""
    assert not new(hunted(cases(), 40))
    assert not new(hunted(stories(), 40))
