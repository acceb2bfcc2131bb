"""Campaigns: the same cases on every machine, one report, whatever runs them."""

from __future__ import annotations

import pickle
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.database import DirectoryBasedExampleDatabase
from support.in_process import InProcess

from mxtrt_fuzz import campaign
from mxtrt_fuzz.execute import Observation, Setup
from mxtrt_fuzz.graphs import Case
from mxtrt_fuzz.hunt import Hunt
from mxtrt_fuzz.oracle import Oracle
from mxtrt_fuzz.report import FuzzReport
from mxtrt_fuzz.signatures import Failure, Signature


def test_a_repeatable_campaign_is_the_same_in_one_process_and_in_two() -> None:
    """Its cases are cut into shards the same way, however many run at a time."""
    plan = campaign.Campaign("ci", examples=16, engine="onnxruntime")
    told: list[int] = []
    one = campaign.run(plan, jobs=1)
    two = campaign.run(plan, jobs=2, progress=lambda report: told.append(report.graphs))
    assert one.graphs == two.graphs == 16
    for counted in ("operators", "edges", "boundary", "sizes", "drawn"):
        assert getattr(one, counted) == getattr(two, counted)
    assert not one.unexplained
    assert told == sorted(told)
    assert told[-1] == 16


def test_an_interrupted_campaign_reports_what_it_has() -> None:
    """SIGINT, from a terminal twice at once: the processes end their case, and all is counted."""
    plan = campaign.Campaign("nightly", examples=100_000, engine="onnxruntime")
    before = signal.getsignal(signal.SIGINT)
    signals = [signal.SIGINT] * 2

    def interrupt(report: FuzzReport) -> None:
        while report.graphs and signals:
            signal.raise_signal(signals.pop())

    report = campaign.run(plan, jobs=2, progress=interrupt)
    assert report.interrupted
    assert 0 < report.graphs < 100_000
    assert signal.getsignal(signal.SIGINT) is before


def test_a_hunt_starts_from_what_another_one_kept(
    tmp_path: Path, make_chain: Callable[..., Case]
) -> None:
    """A nightly hunt looks first at what failed the night before, whatever its seed."""
    case = make_chain("exp", shape=(2,))

    class Rare(InProcess):
        def result(self) -> Observation:
            assert self._pending is not None
            if self._pending[0].seed >= 98:
                raise Failure(Signature("worker", "crash", "mxtrt", "exp"), "SIGSEGV")
            return super().result()

    def hunt(seed: int, examples: int) -> FuzzReport:
        return Hunt(
            Rare(Setup(masks=(), exactness=False)),
            examples=examples,
            seed=seed,
            strategy=st.integers(0, 99).map(lambda drawn: case.replace(seed=drawn)),
            database=DirectoryBasedExampleDatabase(tmp_path),
        ).run()

    assert not hunt(7, 3).found
    assert hunt(0, 99).found
    assert hunt(7, 3).found


def test_a_report_travels_between_processes_with_its_failures(
    make_chain: Callable[..., Case],
) -> None:
    """Classes of signatures are made as they are needed: pickle finds them in no module."""
    report = FuzzReport()
    failure = Failure(Signature("answer", "value", "mxtrt", "exp"), "far off", 3.0)
    report.record(make_chain("exp"), failure)
    crash = Failure(Signature("forward", "crash", "mxtrt", "log"), "SIGSEGV")
    report.record(make_chain("log"), crash.specific())
    again = pickle.loads(pickle.dumps(report))
    assert again.to_dict() == report.to_dict()
    for name, found in report.found.items():
        assert type(again.found[name].failure) is type(found.failure)


def test_small_graphs_are_passed_over_where_each_takes_seconds(
    make_chain: Callable[..., Case],
) -> None:
    """Every example that is counted is a graph worth its builds, the first one too."""
    small, large = make_chain("exp", shape=(2,)), make_chain("exp", "log", "abs", shape=(2,))
    drawn = st.tuples(st.booleans(), st.integers(0, 99)).map(
        lambda both: (large if both[0] else small).replace(seed=both[1])
    )
    report = Hunt(
        InProcess(Setup(masks=(), exactness=False)), examples=7, strategy=drawn, least=3
    ).run()
    assert report.sizes == {"3": 7}


def test_seconds_of_a_hunt_are_those_that_passed(make_chain: Callable[..., Case]) -> None:
    """The worker's count as far as they were waited for; what it did last comes first."""
    case = make_chain("exp", shape=(2,))

    class Slow(InProcess):
        def result(self) -> Observation:
            seen = super().result()
            seen.seconds = {"plain": 100.0, "mask none": 0.05}
            time.sleep(0.1)
            return seen

    begin = time.perf_counter()
    report = Hunt(Slow(Setup(masks=(), exactness=False)), examples=1, strategy=st.just(case)).run()
    assert sum(report.seconds.values()) <= time.perf_counter() - begin
    assert report.seconds["mask none"] == pytest.approx(0.05)
    assert report.seconds["plain"] >= 0.05
    assert report.seconds["starting workers"] == 0


def test_a_hunt_that_ends_with_an_error_takes_nothing_from_the_others() -> None:
    """Its error is told, and the reports of the others are kept."""
    told: dict[int, FuzzReport] = {}
    good, bad = campaign.Campaign(examples=3, engine="onnxruntime"), campaign.Campaign("no such")
    broken = campaign._run_in_processes([bad, good], 2, told.__setitem__, threading.Event())
    assert broken == ["KeyError: 'no such'"]
    assert told[1].graphs == 3


def test_a_wrong_answer_stays_one_where_telling_whom_to_blame_crashes(
    make_chain: Callable[..., Case],
) -> None:
    """The signature names the last operator then, and not a crash."""
    case = make_chain("exp", "sin")
    seen = InProcess(Setup(masks=("none",), exactness=False))(case)
    (run,) = seen.runs
    run.outputs = [tuple(array + 1 for array in heads) for heads in run.outputs]

    def crash(case: Case) -> Observation:
        raise Failure(Signature("worker", "crash", "mxtrt", "graph"), "SIGSEGV")

    crash.setup = Setup()  # type: ignore[attr-defined]
    (failure,) = Oracle(crash).judge(case, seen).failures
    assert (failure.signature.stage, failure.signature.operator) == ("answer", "sin")
