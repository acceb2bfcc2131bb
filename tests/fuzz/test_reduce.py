"""A failing graph becomes small, keeps failing, and comes back from its folder as it was."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.in_process import InProcess

from mxtrt.graph.symbol import Entry
from mxtrt_fuzz.corpus import read, reproducers, write
from mxtrt_fuzz.execute import Setup
from mxtrt_fuzz.generate import cases
from mxtrt_fuzz.graphs import Case, Operation, Tensor, Variable
from mxtrt_fuzz.hunt import Hunt
from mxtrt_fuzz.mutants import MUTANTS
from mxtrt_fuzz.reduce import reduce_case, retyped
from mxtrt_fuzz.replay import failures_of, reduced
from mxtrt_fuzz.signatures import Failure, Signature, failure_class
from mxtrt_fuzz.values import input_arrays

_FAILURE = Failure(Signature("answer", "value", "mxtrt", "exp"), 'a "detail"')


def test_a_chain_is_reduced_to_the_operator_that_matters(make_chain: Callable[..., Case]) -> None:
    """Deleted, rewired and truncated around it, at the smallest size."""
    case = make_chain("tanh", "relu", "exp", "negative", "sin", shape=(6, 4))
    case = case.replace(bind="gluon", denied=("relu", "sin"), seed=9, inline=True)
    smallest = reduce_case(case, lambda c: any(n.op == "exp" for n in c.operations))
    assert [node.op for node in smallest.operations] == ["exp"]
    assert smallest.operations[0].outputs[0].shape == (1, 1)
    assert (smallest.bind, smallest.denied, smallest.seed) == ("bind", (), 0)


def test_a_head_that_is_an_output_no_more_is_no_case() -> None:
    """Fewer parts of a split: the reference has no values for the others."""
    data = Variable("data0", Tensor((2, 6), "float32"), "data", -1.0, 1.0)
    split = Operation(
        "SliceChannel",
        "op0",
        (("axis", "1"), ("num_outputs", "3")),
        (Entry(0, 0),),
        (Tensor((2, 2), "float32"),) * 3,
    )
    case = Case((data, split), (Entry(1, 2),))
    assert retyped(case) == case
    fewer = dataclasses.replace(split, attrs=(("axis", "1"), ("num_outputs", "2")))
    assert retyped(case.replace(nodes=(data, fewer))) is None


def test_every_candidate_is_a_case_whose_shapes_fit(make_chain: Callable[..., Case]) -> None:
    """Nothing invalid is ever tried."""
    tried = []

    def fails(case: Case) -> bool:
        tried.append(case)
        return len(case.operations) > 1

    case = make_chain("tanh", ("transpose", {}), "exp", ("sum", {"axis": "1", "keepdims": "1"}))
    fixed = retyped(case.replace(nodes=case.nodes[:2]).replace(heads=(Entry(1),)))
    assert fixed is not None
    reduce_case(fixed, fails)
    assert tried
    assert all(retyped(candidate) == candidate for candidate in tried)


def test_the_budget_ends_a_reduction(make_chain: Callable[..., Case]) -> None:
    """However much there is left to try."""
    count = 0

    def fails(case: Case) -> bool:
        nonlocal count
        count += 1
        return False

    reduce_case(make_chain(*["tanh"] * 12), fails, budget=7)
    assert count == 7


def test_one_class_per_signature() -> None:
    """Hypothesis tells failures apart by it."""
    one, same, other = (
        failure_class(Signature("answer", "value", "mxtrt", op)) for op in ("exp", "exp", "log")
    )
    assert one is same
    assert one is not other
    assert type(_FAILURE.specific()) is one


def test_a_reproducer_comes_back_as_it_was(tmp_path: Path, make_chain: Callable[..., Case]) -> None:
    """The case, its numbers and what is known of it; written once."""
    case = make_chain("exp").replace(lane="nonfinite", seed=4)
    folder = write(tmp_path, case, _FAILURE, "not fixed yet")
    assert folder.name == f"answer-value-mxtrt-exp-float32-{case.digest}"
    assert sorted(p.name for p in folder.iterdir()) == ["case.json", "inputs.npz", "repro.py"]
    again = read(folder)
    assert again.case == case
    assert (again.signature, again.open) == (str(_FAILURE.signature), "not fixed yet")
    assert np.array_equal(again.arrays["data0@1"], input_arrays(case, 1)["data0"], equal_nan=True)
    assert write(tmp_path, case, _FAILURE) == folder
    assert [r.path for r in reproducers(tmp_path)] == [folder]
    assert [p.name for p in tmp_path.iterdir()] == [folder.name]


def test_what_is_no_reproducer_is_refused(tmp_path: Path) -> None:
    """The message names the file."""
    (tmp_path / "case.json").write_text(json.dumps({"format": 1}))
    with pytest.raises(ValueError, match=r"case\.json is not a case"):
        read(tmp_path)
    with pytest.raises(ValueError, match="missing"):
        read(tmp_path / "missing")


def test_a_planted_bug_is_found_reduced_and_replayed(tmp_path: Path) -> None:
    """Two axes swapped in one converter: at most three operators are left of it."""
    (mutant,) = (m for m in MUTANTS if m.name == "transpose swaps two axes")
    executor = InProcess(Setup(masks=("none", "drawn"), exactness=False))
    with mutant.planted():
        strategy = cases(8, ("uniform",))
        report = Hunt(executor, examples=60, strategy=strategy, shrink=False).run()
        found = [f for name, f in report.found.items() if name.startswith(("answer", "forward"))]
        assert found
        case, failure = reduced(found[0].case, str(found[0].failure.signature), executor)
        assert len(case.operations) <= 3
        folder = write(tmp_path, case, failure)
        assert failures_of(read(folder).case, executor)
    assert not failures_of(read(folder).case, executor)


def test_repro_runs_alone(tmp_path: Path, make_chain: Callable[..., Case]) -> None:
    """A script that says what fails: here, nothing."""
    folder = write(tmp_path, make_chain("exp"), _FAILURE)
    done = subprocess.run(
        [sys.executable, folder / "repro.py"],
        env={"PYTHONPATH": ":".join(sys.path), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
