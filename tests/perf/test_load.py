"""Closed loops of many threads: their figures, the turns they take, the report and the gate."""

from __future__ import annotations

import dataclasses
import re
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from bench.load import measure
from support.simulation import run

from mxtrt.perf.baseline import read_baseline, update_baseline
from mxtrt.perf.load import Burst, ClosedLoop, Figures, Load, figures_of, percentile
from mxtrt.perf.report.content import content
from mxtrt.perf.report.render import to_html, to_markdown
from mxtrt.perf.runs import Benchmark, Run
from mxtrt.perf.verdicts import Verdict, judge


@pytest.mark.parametrize(
    ("percent", "expected"), [(1, 1), (50, 50), (50.5, 51), (99, 99), (99.5, 100), (100, 100)]
)
def test_a_percentile_is_a_value_that_was_seen(percent: float, expected: float) -> None:
    """The smallest that so many per cent do not exceed, in whatever order they came."""
    values = np.random.default_rng(0).permutation(np.arange(1.0, 101.0))
    assert percentile(list(values), percent) == expected


def test_a_percentile_of_one_value_is_that_value() -> None:
    """However few requests there are."""
    assert percentile([3.0], 50) == percentile([3.0], 99) == 3.0


def test_figures_are_of_the_median_burst_and_of_all_requests() -> None:
    """One burst in which the machine was busy changes the rate little, and the p99 much."""
    bursts = [Burst(1.0, [0.01] * 100), Burst(1.25, [0.01] * 100), Burst(50.0, [0.5] * 100)]
    assert figures_of(bursts) == Figures(rate=80.0, p50_ms=10.0, p99_ms=500.0, requests=300)


@pytest.mark.parametrize("threads", [1, 2, 3, 8, 16])
def test_a_burst_has_its_number_of_requests_whatever_the_threads(threads: int) -> None:
    """Every burst, each thread one request at a time."""
    done: Counter[int] = Counter()
    busy = [threading.Lock() for _ in range(threads)]

    def request(number: int) -> Callable[[], None]:
        def call() -> None:
            assert busy[number].acquire(blocking=False)
            done[number] += 1
            busy[number].release()

        return call

    with ClosedLoop([request(number) for number in range(threads)], 50) as loop:
        for burst in range(1, 4):
            loop()
            assert sum(done.values()) == 50 * burst
    assert [len(burst.latencies) for burst in loop.bursts] == [50] * 3
    assert all(0 <= max(burst.latencies) <= burst.seconds for burst in loop.bursts)


def test_threads_of_a_loop_are_at_work_at_the_same_time() -> None:
    """Requests that wait for each other are all answered."""
    together = threading.Barrier(4)
    with ClosedLoop([together.wait] * 4, 40) as loop:
        loop()
    assert len(loop.bursts[0].latencies) == 40


def test_an_error_of_a_request_is_the_callers() -> None:
    """The burst ends early and does not count; the loop can be used again."""
    calls = iter(range(1000))

    def request() -> None:
        if next(calls) == 7:
            raise ValueError("request 7")

    with ClosedLoop([request] * 3, 30) as loop:
        with pytest.raises(ValueError, match="request 7"):
            loop()
        assert loop.bursts == []
        loop()
        assert len(loop.bursts[0].latencies) == 30


def test_a_request_that_hangs_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """A benchmark ends: plain MXNet's engine is known to come to a stop under threads."""
    monkeypatch.setattr("mxtrt.perf.load.PATIENCE", 0.2)
    before = threading.active_count()
    begun, stuck = threading.Event(), threading.Event()

    def hang() -> None:
        begun.set()
        stuck.wait()

    loop = ClosedLoop([hang, begun.wait], 30)
    with pytest.raises(TimeoutError, match=r"^\d+ of 30 requests were answered within 0\.2 s"):
        loop()
    assert loop.bursts == []
    loop.close()
    stuck.set()
    for thread in threading.enumerate():
        if thread.name.endswith("(_work)"):
            thread.join()
    assert threading.active_count() == before


def test_a_closed_loop_leaves_no_threads() -> None:
    """Closing twice is closing once."""
    before = threading.active_count()
    loop = ClosedLoop([lambda: None] * 8, 8)
    assert threading.active_count() == before + 8
    loop.close()
    loop.close()
    assert threading.active_count() == before


class SimulatedLoop:
    """Bursts that take a known time per request; tells whose turn it was."""

    def __init__(self, side: str, seconds: float, requests: int, turns: list[str]) -> None:
        self.requests = requests
        self.bursts: list[Burst] = []
        self._side, self._seconds, self._turns = side, seconds, turns

    def __call__(self) -> None:
        self._turns.append(self._side)
        latencies = [self._seconds] * self.requests
        self.bursts.append(Burst(self._seconds * self.requests, latencies))


class SimulatedBench:
    """What ``measure`` takes of the fixture."""

    def __init__(self) -> None:
        self.settings = SimpleNamespace(seconds=8.0, counters_only=False, gpu=False)

    def drive(self, name: str, call: Any, before: Any, rounds: int) -> None:
        for _ in range(rounds):
            before()
            call()

    def found(self, name: str, found: Benchmark) -> Benchmark:
        return found


def measured(**seconds: float) -> tuple[Benchmark, list[str]]:
    """Measures simulated loops, plain MXNet with a tenth of the requests; and their turns."""
    turns: list[str] = []
    loops = {
        side: SimulatedLoop(side, each, 4 if side == "plain" else 40, turns)
        for side, each in seconds.items()
    }
    return measure(SimulatedBench(), "load/net/executors/8", 8, loops, ["a reason"]), turns


def test_sides_are_measured_in_turns_by_the_request() -> None:
    """The ratio is that of the rates, though plain MXNet sends fewer requests."""
    found, turns = measured(plain=0.02, mxtrt=0.005, bare=0.004)
    assert found.paired is not None
    assert found.paired.ratio == pytest.approx(4)
    assert found.paired.plain_ms == pytest.approx(20)
    assert found.paired.pairs == 8
    load = Load.of(found.facts["load"])
    assert (load.threads, load.lacks) == (8, ("a reason",))
    rates = {side: round(figures.rate) for side, figures in load.sides.items()}
    assert rates == {"plain": 50, "mxtrt": 200, "bare": 250}
    # As often as pairs were made; the bursts before these were to warm up.
    assert load.sides["mxtrt"].requests == load.sides["bare"].requests == 8 * 40
    seen = "".join(side[0] for side in turns)
    assert seen.endswith("pm" + "bbmppp" + "pm" + "bbmppp")


def test_a_load_without_plain_mxnet_has_no_ratio() -> None:
    """Where its kernels are missing; the curves of the others are there."""
    found, turns = measured(mxtrt=0.005, bare=0.004)
    assert found.paired is None
    assert set(Load.of(found.facts["load"]).sides) == {"mxtrt", "bare"}
    assert turns[-8:] == ["mxtrt", "bare", "bare", "mxtrt"] * 2


def loaded(seed: int = 0, slower: float = 1.0, lanes: float = 4.0, **figures: float) -> Run:
    """A run of one load benchmark at 1 and 8 threads, on a machine that is so much slower."""
    one = run(seed=seed, **figures).benchmarks["zoo/net/1"]
    counters = {"engine_nodes": 1.0, "waits": 1.0, "lanes": lanes}
    benchmarks = {}
    for threads in (8, 1):
        sides = {
            "plain": Figures(100 * threads / slower, 10 * slower, 12 * slower, 960),
            "mxtrt": Figures(200 * threads / slower, 5 * slower, 6.5 * slower, 480),
            "bare": Figures(250 * threads / slower, 4 * slower, 4.5 * slower, 480),
        }
        facts = {"load": Load(threads, sides).to_dict()}
        benchmarks[f"load/net<1>/block/{threads}"] = dataclasses.replace(
            one, counters=counters, facts=facts
        )
    machine = {**run().environment, "engine": "tensorrt 8.5.3.1"}
    return dataclasses.replace(run(), environment=machine, benchmarks=benchmarks)


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        pytest.param(loaded(1), Verdict.OK, id="as before"),
        pytest.param(loaded(1, slower=3.0), Verdict.OK, id="a slower machine"),
        pytest.param(loaded(1, slowdown=1.2), Verdict.SLOWER, id="fewer requests than before"),
        pytest.param(loaded(1, lanes=3.0), Verdict.OK, id="runs overlap a little less"),
        pytest.param(loaded(1, lanes=2.0), Verdict.LESS, id="runs queue"),
        pytest.param(loaded(1, lanes=8.0), Verdict.MORE, id="more memory"),
    ],
)
def test_the_gate_looks_at_ratios_and_counters_of_a_load(
    now: Run, expected: Verdict, tmp_path: Path
) -> None:
    """Never at times: these are the machine's."""
    update_baseline(tmp_path / "machine", loaded(), "first")
    outcome = judge(now, read_baseline(tmp_path / "machine"))
    assert {judgement.verdict for judgement in outcome.judgements.values()} == {expected}


@pytest.mark.parametrize(("before", "now"), [(1.0, 2.0), (2.0, 1.0)])
def test_one_lane_and_two_are_never_the_same(before: float, now: float, tmp_path: Path) -> None:
    """A lone thread takes one, and two threads take two."""
    update_baseline(tmp_path / "machine", loaded(lanes=before), "first")
    outcome = judge(loaded(lanes=now), read_baseline(tmp_path / "machine"))
    assert outcome.exit_code == 1


def test_times_of_a_load_are_not_stored(tmp_path: Path) -> None:
    """A baseline holds the paired figures, and those of a slower machine are no others."""
    for slower in (1.0, 3.0):
        update_baseline(tmp_path / str(slower), loaded(slower=slower), "first")
    files = [(tmp_path / str(slower) / "latency.json").read_text() for slower in (1.0, 3.0)]
    assert files[0] == files[1]


def test_the_report_draws_a_load_as_curves_over_threads() -> None:
    """Requests per second and p99, a line for each side, and a table, fewest threads first."""
    pytest.importorskip("matplotlib")
    found = content(loaded(), None)
    assert [point.threads for point in found.loads["net<1>/block"]] == [1, 8]
    page = to_html(found)
    drawing = next(svg for svg in re.findall("<svg.*?</svg>", page, re.S) if "p99" in svg)
    for text in (
        "requests per second",
        "p99, ms",
        "plain MXNet",
        "mxtrt",
        "bare engine",
        "threads",
    ):
        assert f">{text}</text>" in drawing
    assert 'aria-label="Requests per second and p99 of net&lt;1&gt;/block over threads"' in drawing
    assert "<h3>net&lt;1&gt;/block</h3>" in page
    assert "net<1>" not in page
    cells = re.findall(r">([^<>]+)</td>", page[page.index("<summary>figures") :])
    assert cells[:7] == ["1", "plain", "100", "0.40", "10 ms", "12 ms", "960"]
    assert cells[21:28] == ["8", "plain", "800", "0.40", "10 ms", "12 ms", "960"]
    assert "| net<1>/block | 8 | 800, 1600, 2000 | 10, 5, 4 | 12, 6.5, 4.5 |" in to_markdown(found)


def test_the_report_says_why_a_side_is_missing() -> None:
    """Once, however many benchmarks lack it."""
    pytest.importorskip("matplotlib")
    now = loaded()
    for name, benchmark in now.benchmarks.items():
        load = Load.of(benchmark.facts["load"])
        sides = {side: figures for side, figures in load.sides.items() if side != "bare"}
        lacking = Load(load.threads, sides, ("there is no C compiler; install gcc",))
        now.benchmarks[name] = dataclasses.replace(benchmark, facts={"load": lacking.to_dict()})
    page = to_html(content(now, None))
    assert page.count("there is no C compiler; install gcc") == 1
    assert "bare engine" not in page


def test_a_report_without_loads_has_no_section_for_them() -> None:
    """Such as one of counters only."""
    pytest.importorskip("matplotlib")
    assert "Threads under load" not in to_html(content(run(), None))
