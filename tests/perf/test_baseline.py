"""Stored baselines, runs from their files, and drift over the history."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from support.simulation import ENVIRONMENT, latencies, run

from mxtrt.errors import OptionError
from mxtrt.perf.baseline import read_baseline, update_baseline
from mxtrt.perf.drift import drifts
from mxtrt.perf.runs import EXTRA, read_run
from mxtrt.perf.verdicts import judge


def write(path: Path, now: object) -> Path:
    """A run as pytest-benchmark writes it."""
    entries = [
        {"name": name, "extra_info": {EXTRA: benchmark.to_dict()}}
        for name, benchmark in now.benchmarks.items()
    ]
    machine = {EXTRA: dict(now.environment)}
    data = {"benchmarks": entries, "machine_info": machine, "datetime": now.time, "commit_info": {}}
    path.write_text(json.dumps(data))
    return path


def test_a_run_is_what_was_written(tmp_path: Path) -> None:
    """Counters and figures survive the file; later files take the place of benchmarks."""
    seen = read_run(write(tmp_path / "RUN.json", run()))
    assert seen.benchmarks == run().benchmarks
    assert seen.key == ENVIRONMENT["key"]
    again = run(seed=1)
    assert seen.joined([again]).benchmarks == again.benchmarks


@pytest.mark.parametrize("text", ["", "[]", '{"benchmarks": []}', '{"benchmarks": [{}]}'])
def test_another_file_is_refused_in_one_sentence(text: str, tmp_path: Path) -> None:
    """The error names the file."""
    path = tmp_path / "RUN.json"
    path.write_text(text)
    with pytest.raises(OptionError, match=r"RUN\.json is no run of nox -s bench"):
        read_run(path)


def test_a_baseline_passes_its_own_run(tmp_path: Path) -> None:
    """What was recorded is what is read, with the history and its reasons."""
    folder = tmp_path / "machine"
    update_baseline(folder, run(), "first")
    update_baseline(folder, run(seed=1), "second")
    seen = read_baseline(folder)
    assert judge(run(seed=1), seen).exit_code == 0
    assert [entry["reason"] for entry in seen.history] == ["first", "second"]
    assert {p.name for p in folder.iterdir()} == {
        "counters.json",
        "env.json",
        "history.jsonl",
        "latency.json",
    }


def test_a_baseline_is_updated_for_a_reason(tmp_path: Path) -> None:
    """An empty reason is refused, and nothing is written."""
    with pytest.raises(OptionError, match="--reason"):
        update_baseline(tmp_path / "machine", run(), " ")
    assert not (tmp_path / "machine").exists()


def test_a_void_latency_is_not_recorded(tmp_path: Path) -> None:
    """Its counters are, and the latency that was expected before stays."""
    folder = tmp_path / "machine"
    update_baseline(folder, run(), "first")
    assert update_baseline(folder, run({"copies": 1.0}, noise=0.3), "second") == ["zoo/net/1"]
    seen = read_baseline(folder)
    assert seen.latency == {"zoo/net/1": latencies(0)}
    assert seen.counters["zoo/net/1"]["copies"] == 1


def test_no_baseline_is_an_error(tmp_path: Path) -> None:
    """A machine that gates without one does not pass."""
    with pytest.raises(OptionError, match="baseline_update"):
        read_baseline(tmp_path / "nowhere")


def history(ratios: list[float]) -> list[dict[str, object]]:
    """Recorded runs with these speed-ups."""
    return [
        {"time": "", "commit": f"c{i}", "reason": "", "ratios": {"zoo/net/1": [r, r, r]}}
        for i, r in enumerate(ratios)
    ]


def test_a_drift_is_found_where_it_began() -> None:
    """5 % in the middle of a history, too little for the gate's tolerance with noise."""
    pytest.importorskip("ruptures")
    random = np.random.default_rng(0)
    ratios = [*random.normal(2, 0.01, 12), *random.normal(1.9, 0.01, 12)]
    (drift,) = drifts(history(ratios))
    assert drift.place == 12
    assert drift.commit == "c12"
    assert drift.after == pytest.approx(1.9, rel=0.01)


def test_a_steady_history_has_no_drift() -> None:
    """50 histories of 24 runs with 1 % noise, and short ones."""
    pytest.importorskip("ruptures")
    for seed in range(50):
        ratios = np.random.default_rng(seed).normal(2, 0.02, 24)
        assert drifts(history(list(ratios))) == []
    assert drifts(history([2.0, 1.0])) == []


def test_control_intervals_hold_one_on_a_drifting_machine() -> None:
    """The control of 100 simulated runs: 1 is inside in at least 97."""
    inside = 0
    for seed in range(100):
        figures = latencies(seed, drift=0.06)
        inside += figures.control_low <= 1 <= figures.control_high
    assert inside >= 97
