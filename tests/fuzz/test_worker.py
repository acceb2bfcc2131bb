"""Cases run in a process that may die: the hunt goes on, and the death is a finding."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.in_process import InProcess
from support.process import run

import mxtrt_fuzz
from mxtrt_fuzz.execute import Setup
from mxtrt_fuzz.graphs import BINDS, Case
from mxtrt_fuzz.oracle import Oracle
from mxtrt_fuzz.properties import ledger, partition_faults
from mxtrt_fuzz.signatures import Failure
from mxtrt_fuzz.words import last_words
from mxtrt_fuzz.worker import Worker


@pytest.mark.parametrize("bind", BINDS)
def test_every_way_to_bind_runs_engines(
    bind: str, worker: Worker, make_chain: Callable[..., Case]
) -> None:
    """Under the mask none every node is in an engine, under all none is."""
    case = make_chain("tanh", "exp", "relu").replace(bind=bind, denied=("exp",))
    seen = worker(case)
    runs = {run.mask: run for run in seen.runs}
    assert not seen.invalid
    assert not seen.unequal
    assert [runs[mask].reason for mask in ("none", "drawn", "all")] == ["", "", ""]
    assert runs["none"].segments == [["op0", "op1", "op2"]]
    assert runs["drawn"].left.keys() == {"op1"}
    assert runs["all"].segments == []
    assert not Oracle(worker).judge(case, seen).failures


def test_a_case_that_mxnet_refuses_is_invalid(
    worker: Worker, make_chain: Callable[..., Case]
) -> None:
    """It is counted, not blamed on anyone."""
    case = make_chain(("clip", {"a_min": "0"}))
    assert "a_max" in worker(case).invalid


def test_a_context_without_code_for_an_operator_leaves_its_cases_out(
    make_chain: Callable[..., Case],
) -> None:
    """Also from what the engine is denied: MXNet is left only with operators that work there."""
    setup = Setup(working=frozenset({"exp"}), masks=("drawn",), exactness=False)
    refused = make_chain("tanh", "round")
    assert InProcess(setup)(refused).invalid == "MXNet has no round in context cpu"
    seen = InProcess(setup)(make_chain("tanh", "exp", "relu").replace(denied=("exp", "tanh")))
    assert not seen.invalid
    assert seen.runs[0].left.keys() == {"op1"}


def test_given_values_take_the_place_of_the_seeds(
    worker: Worker, make_chain: Callable[..., Case]
) -> None:
    """As a reproducer gives them."""
    case = make_chain("negative")
    given = {"data0@0": np.full((2, 3), 7, "f"), "data0@1": np.zeros((2, 3), "f")}
    worker.submit(case, given)
    assert np.array_equal(worker.result().plain[0][0], np.full((2, 3), -7, "f"))


def test_what_a_library_says_before_it_aborts_is_told() -> None:
    """It stands in front of Python's report, whose thread may be another one."""
    log = """[12:00:00] MXNET_SUBGRAPH_BACKEND=NONE is detected
terminate called after throwing an instance of 'dmlc::Error'
  what():  no kernel image is available

Fatal Python error: Aborted

Thread 0x00007fae5cff96c0 (most recent call first):
  File "threading.py", line 324 in wait
"""
    assert last_words(log).startswith(
        "terminate called after throwing an instance of 'dmlc::Error' | "
        "what():  no kernel image is available | Fatal Python error: Aborted | Thread"
    )
    assert last_words("Killed\n") == "Killed"


FIRST_BINDS = """
    import sys, time
    sys.path[:0] = {path!r}
    import mxtrt, mxtrt.system.threads
    from conftest import chain
    from mxtrt_fuzz.execute import Setup, observe

    def by_everyone(self, *args):
        if args not in self._made:
            value = self._function(*args)
            time.sleep(0.2)
            self._made[args] = value
        return self._made[args]

    if {spoilt}:
        mxtrt.system.threads.Once.__call__ = by_everyone
    seen = observe(chain("tanh", "exp", "relu"), Setup(masks=("none",)))
    print(seen.invalid, [run.reason for run in seen.runs], seen.unequal)
"""


@pytest.mark.parametrize("spoilt", [False, True])
def test_threads_that_spoil_each_others_first_binds_are_found(spoilt: bool) -> None:
    """The first case of a process is bound by several at once, with nothing loaded before."""
    path = [str(Path(__file__).parent), str(Path(mxtrt_fuzz.__file__).parents[1])]
    done = run(FIRST_BINDS.format(path=path, spoilt=spoilt))
    assert (done.stdout.strip() != "[''] []") == spoilt, done.stdout + done.stderr


def test_a_crash_is_a_failure_and_the_next_case_runs(make_chain: Callable[..., Case]) -> None:
    """With the signal in its detail, or the words of MXNet, which ends a process by itself then."""
    case = make_chain("tanh")
    with Worker(Setup(masks=())) as mortal:
        mortal(case)
        assert mortal._process is not None
        assert mortal._process.pid is not None
        os.kill(mortal._process.pid, signal.SIGSEGV)
        with pytest.raises(Failure, match=r"worker-crash-mxtrt-tanh.*(SIGSEGV|Segmentation fault)"):
            mortal(case)
        assert mortal.restarts == 1
        assert mortal(case).plain


def test_a_hang_is_a_failure(make_chain: Callable[..., Case]) -> None:
    """After the timeout the process is killed."""
    case = make_chain("tanh")
    with Worker(Setup(masks=())) as mortal:
        mortal(case)
        mortal.timeout = 2.0  # now that it is there
        assert mortal._process is not None
        assert mortal._process.pid is not None
        os.kill(mortal._process.pid, signal.SIGSTOP)
        mortal.submit(case)
        with pytest.raises(Failure, match="worker-timeout-mxtrt-tanh"):
            mortal.result()
        assert mortal._process is None


def test_partition_faults_are_told(worker: Worker, make_chain: Callable[..., Case]) -> None:
    """A node lost, a node denied, segments that read each other."""
    case = make_chain("tanh", "exp", "relu")
    run = worker(case).runs[0]
    assert not list(partition_faults(case, run))
    run.segments = [["op0", "op2"], ["op1"]]
    assert [symptom for symptom, _ in partition_faults(case, run)] == ["cycle"]
    run.denied = ("tanh",)
    assert {symptom for symptom, _ in partition_faults(case, run)} == {"cycle", "denied"}
    run.segments = [["op0"]]
    assert [symptom for symptom, _ in partition_faults(case, run)] == ["cover"]


def test_the_ledger_tells_bytes_that_two_own(
    worker: Worker, make_chain: Callable[..., Case]
) -> None:
    """More in engines than they read, more released than held."""
    case = make_chain("tanh")
    run = worker(case).runs[0]
    assert not list(ledger(case, run))
    run.weight_bytes = 4
    assert [symptom for symptom, _ in ledger(case, run)] == ["twice"]
    run.released_bytes = 8
    assert [symptom for symptom, _ in ledger(case, run)] == ["twice", "released"]
