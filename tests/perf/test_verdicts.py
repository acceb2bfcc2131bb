"""The gate on simulated machines: what has to be caught is, and clean runs pass."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from support.simulation import latencies, run

from mxtrt.perf.baseline import Baseline, read_baseline, update_baseline
from mxtrt.perf.runs import Run
from mxtrt.perf.verdicts import Verdict, judge, judge_latency


@pytest.fixture
def baseline(tmp_path: Path) -> Baseline:
    """A baseline of one simulated benchmark."""
    update_baseline(tmp_path / "machine", run(), "first")
    return read_baseline(tmp_path / "machine")


def verdict(now: Run, baseline: Baseline) -> Verdict:
    """The verdict on the only benchmark, and that it is the gate's."""
    outcome = judge(now, baseline)
    (judgement,) = outcome.judgements.values()
    assert (outcome.exit_code == 1) == judgement.verdict.fails
    return judgement.verdict


def test_an_identical_run_passes(baseline: Baseline) -> None:
    """The same figures, exit code 0."""
    assert judge(run(), baseline).exit_code == 0


def test_two_hundred_clean_runs_give_no_false_alarm() -> None:
    """At 6 % drift and 1 % noise, every run against the first; undecided ones are rare."""
    first = latencies(0)
    seen = [judge_latency(first, latencies(seed))[0] for seed in range(1, 201)]
    assert not [v for v in seen if v.fails]
    assert sum(v.undecided for v in seen) <= 2


def test_a_slowdown_of_ten_per_cent_is_caught() -> None:
    """In each of 100 runs."""
    first = latencies(0)
    seen = [judge_latency(first, latencies(s, slowdown=1.1))[0] for s in range(1, 101)]
    assert set(seen) == {Verdict.SLOWER}


def test_ten_per_cent_on_a_noisy_machine_never_pass() -> None:
    """At 10 % noise with few pairs a run is slower, ambiguous or void: never as before."""
    first = latencies(0)
    for seed in range(1, 51):
        now = latencies(seed, slowdown=1.1, noise=0.1, rounds=20)
        assert judge_latency(first, now)[0] not in (Verdict.OK, Verdict.FASTER)


def test_a_failing_control_voids_the_run() -> None:
    """Plain MXNet against itself is not 1: nothing is said, and the benchmark is run again."""
    first = latencies(0)
    void = dataclasses.replace(latencies(1, slowdown=2), control_low=1.02, control_high=1.05)
    assert judge_latency(first, void)[0] is Verdict.VOID
    assert Verdict.VOID.undecided


def test_a_latency_that_was_not_recorded_is_new_unless_it_is_too_noisy_to_record() -> None:
    """A machine on which plain MXNet is never quiet is asked for what it can give."""
    now = latencies(1)
    assert judge_latency(None, now)[0] is Verdict.NEW
    void = dataclasses.replace(now, control_low=1.02, control_high=1.05)
    assert judge_latency(None, void)[0] is Verdict.VOID


def test_an_interval_across_the_limit_is_ambiguous() -> None:
    """Neither slower nor as before."""
    first = latencies(0)
    wide = dataclasses.replace(latencies(1), low=0.8 * first.low, high=1.2 * first.high)
    assert judge_latency(first, wide)[0] is Verdict.AMBIGUOUS


def test_a_faster_run_passes() -> None:
    """20 % faster is told apart from as before."""
    first = latencies(0)
    assert judge_latency(first, latencies(1, slowdown=0.8))[0] is Verdict.FASTER


@pytest.mark.parametrize(
    ("counter", "value", "expected"),
    [
        pytest.param("copies", 1.0, Verdict.MORE, id="extra copy"),
        pytest.param("mxnet_bytes", 1_052_672.0, Verdict.MORE, id="retained weight"),
        pytest.param("segments", 1.0, Verdict.LESS, id="lost segment"),
        pytest.param("waits", 0.0, Verdict.NEW, id="new counter"),
    ],
)
def test_a_counter_that_changes_shuts_the_gate(
    counter: str, value: float, expected: Verdict, baseline: Baseline
) -> None:
    """More fails; less has to be recorded, or a later rise would go unseen."""
    assert verdict(run({counter: value}), baseline) is expected
    assert expected.fails


@pytest.mark.parametrize(
    ("engine", "bytes_now", "expected"),
    [
        ("tensorrt 8.5.3.1", 4_200_000.0, Verdict.OK),
        ("tensorrt 8.5.3.1", 4_500_000.0, Verdict.MORE),
        ("onnxruntime 1.23.2", 4_000_001.0, Verdict.MORE),
    ],
)
def test_tensorrt_may_lay_out_its_weights_as_it_likes(
    engine: str, bytes_now: float, expected: Verdict, tmp_path: Path
) -> None:
    """Five per cent: every build times its kernels anew.  Other engines give the same bytes."""
    machine = {**run().environment, "engine": engine}
    before = dataclasses.replace(run({"engine_bytes": 4_000_000.0}), environment=machine)
    update_baseline(tmp_path / "machine", before, "first")
    now = dataclasses.replace(run({"engine_bytes": bytes_now}), environment=machine)
    assert verdict(now, read_baseline(tmp_path / "machine")) is expected


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, Verdict.MORE),
        ({"engine": "onnxruntime 1.24.0"}, Verdict.OK),
        ({"key": "another_cpu"}, Verdict.OK),
    ],
)
def test_activations_are_held_against_the_same_kernels(
    changed: dict[str, str], expected: Verdict, tmp_path: Path
) -> None:
    """Another version of ONNX Runtime, or another CPU, takes other scratch memory."""
    machine = {**run().environment, "engine": "onnxruntime 1.23.2"}
    before = dataclasses.replace(run({"activation_bytes": 0.0}), environment=machine)
    update_baseline(tmp_path / "machine", before, "first")
    now = dataclasses.replace(run({"activation_bytes": 4096.0}), environment={**machine, **changed})
    assert verdict(now, read_baseline(tmp_path / "machine")) is expected


def test_a_counter_counts_whatever_the_latency_says(baseline: Baseline) -> None:
    """A void latency does not hide an extra copy."""
    noisy = run({"copies": 1.0}, noise=0.3)
    assert verdict(noisy, baseline) is Verdict.MORE


def test_a_benchmark_that_one_side_lacks_fails(baseline: Baseline) -> None:
    """New ones have to be recorded, missing ones recorded as gone."""
    known = run().benchmarks
    two = dataclasses.replace(run(), benchmarks={**known, "new": known["zoo/net/1"]})
    none = dataclasses.replace(run(), benchmarks={})
    assert judge(two, baseline).named(Verdict.NEW) == ["new"]
    assert judge(none, baseline).named(Verdict.MISSING) == ["zoo/net/1"]
    assert judge(two, baseline).exit_code == judge(none, baseline).exit_code == 1


def test_a_benchmark_that_was_not_asked_for_is_not_missed(baseline: Baseline) -> None:
    """Of another suite, or passed over; one that was is named."""
    none = dataclasses.replace(run(), benchmarks={})
    for asked in ({"suites": frozenset({"micro"})}, {"passed_over": frozenset({"zoo/net/1"})}):
        assert judge(dataclasses.replace(none, **asked), baseline).exit_code == 0
    zoo = dataclasses.replace(none, suites=frozenset({"zoo"}))
    assert judge(zoo, baseline).failing == ["zoo/net/1"]


def test_a_benchmark_of_which_nothing_is_known_says_so(baseline: Baseline) -> None:
    """It is not as before."""
    known = run().benchmarks["zoo/net/1"]
    bare = dataclasses.replace(known, counters={}, paired=None)
    judgement = judge(dataclasses.replace(run(), benchmarks={"zoo/net/1": bare}), baseline)
    assert "nothing" in judgement.judgements["zoo/net/1"].why
