"""The tool that runs MXNet's own tests, on a checkout that is made here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mxnet_suite.suite import Repeats, Result, Verdict, again, files_of, judge, table
from support.process import ROOT

FILE = "tests/python/unittest/test_small.py"

TESTS = """
import os
import mxnet as mx
import numpy as np
import pytest

ON = "USE_TENSORRT" in os.environ


def test_binds():
    x = mx.sym.var("x")
    y = mx.sym.FullyConnected(mx.sym.relu(x) + 1, num_hidden=2)
    executor = y.simple_bind(mx.cpu(), grad_req="null", x=(2, 3))
    assert executor.forward()[0].shape == (2, 2)
    if ON:
        import mxtrt
        with mxtrt.options(ranges="none.json", precision="int8"):
            y.simple_bind(mx.cpu(), grad_req="null", x=(2, 3)).forward()


def test_has_an_old_name_of_numpy_and_its_seed():
    assert np.random.randint(1000) == np.random.RandomState(5).randint(1000)
    assert np.bool is bool


def test_passes_plain_only():
    assert not ON, "one\\ntwo"


def test_crashes_with_engines():
    if ON:
        os.abort()


def test_comes_after_the_crash():
    assert type(mx.sym.Symbol.bind).__name__ == "function"
    assert ON == hasattr(mx.sym.Symbol.bind, "__wrapped__")


def test_never_passes():
    assert False


@pytest.mark.skip
def test_is_skipped():
    pass
"""


def id_of(test: str) -> str:
    """The id of a test of the checkout."""
    return f"{FILE}::test_{test}"


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the tool on the checkout in a folder."""
    script = Path(__file__).with_name("suite.py")
    command = [sys.executable, "-W", "ignore", str(script), "--mxnet-source", str(folder)]
    return subprocess.run(
        [*command, "--seed", "5", "--repeats", "0", *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with one file of tests."""
    file = tmp_path / FILE
    file.parent.mkdir(parents=True)
    file.write_text(TESTS)
    return tmp_path


def test_what_passes_plain_only_fails_and_a_crash_stops_nothing(checkout, tmp_path):
    """Differences are named with what they said; tests after a crash run; engines are counted."""
    known = tmp_path / "known.json"
    known.write_text(json.dumps({id_of("crashes_with_engines"): "It aborts."}))
    kept = tmp_path / "run.json"
    done = run(checkout, "--known", str(known), "--json", str(kept), "test_small")
    assert done.returncode == 1, done.stdout + done.stderr
    only = done.stdout.partition("passes in plain MXNet only:")[2].partition("known:")
    assert only[0].split() == [id_of("passes_plain_only"), "failed:", "AssertionError:", "one"]
    assert id_of("crashes_with_engines") in only[2]
    content = json.loads(kept.read_text())
    outcomes = {
        name: [
            results[FILE][id_of(name)]["outcome"] for results in (content["plain"], content["on"])
        ]
        for name in (
            line[9:].partition("(")[0] for line in TESTS.splitlines() if "def test" in line
        )
    }
    assert outcomes == {
        "binds": ["passed", "passed"],
        "has_an_old_name_of_numpy_and_its_seed": ["passed", "passed"],
        "passes_plain_only": ["passed", "failed"],
        "crashes_with_engines": ["passed", "crashed"],
        "comes_after_the_crash": ["passed", "passed"],
        "never_passes": ["failed", "failed"],
        "is_skipped": ["skipped", "skipped"],
    }
    assert content["on"][FILE][id_of("binds")]["did"]["engine_runs"] == 1
    assert "the graph runs as plain MXNet: " in content["on"][FILE][id_of("binds")]["warned"][0]
    assert "the graph runs as plain MXNet: " in done.stdout.partition("warnings")[2]
    assert content["on"][FILE][id_of("crashes_with_engines")]["text"] == "SIGABRT"
    repeats = content["repeats"][id_of("crashes_with_engines")]
    assert repeats == {"plain": 0, "on": 0, "of": 0, "in_place": True}


def test_a_test_that_hangs_is_recorded(checkout):
    """What takes too long is ended, the rest runs, and a crash at a process's end is told."""
    (checkout / FILE).write_text(
        "import atexit, os, time\n"
        "def test_hangs(): time.sleep(99)\n"
        "def test_passes(): atexit.register(os.abort)\n"
    )
    kept = checkout / "plain.json"
    run(checkout, "--plain-only", "--timeout", "3", "--json", str(kept))
    outcomes = {t: r["outcome"] for t, r in json.loads(kept.read_text())["plain"][FILE].items()}
    end = f"{FILE}::(end)"
    assert outcomes == {id_of("hangs"): "hung", id_of("passes"): "passed", end: "crashed"}


def test_a_file_that_imports_nowhere_is_a_failure(checkout):
    """Tests that plain MXNet alone collects are differences; its results come from a run before."""
    (checkout / FILE).write_text("import nothing\n")
    saved = {"inference": False, "plain": {FILE: {id_of("passes"): {"outcome": "passed"}}}}
    kept = checkout / "plain.json"
    kept.write_text(json.dumps(saved))
    done = run(checkout, "--plain", str(kept))
    assert done.returncode == 1
    assert f"{id_of('passes')}\n    missing" in done.stdout


def test_inference_takes_more_tests_to_engines(checkout):
    """A check of an operator is bound without gradients, and a block that is called hybridized."""
    (checkout / FILE).write_text(
        "import mxnet as mx, numpy as np\n"
        "from mxnet.test_utils import *\n"
        "def test_checks():\n"
        "    x = mx.sym.var('x')\n"
        "    check_symbolic_forward(mx.sym.exp(x) + mx.sym.sqrt(x), {'x': np.ones((2, 2))},\n"
        "                           [np.full((2, 2), np.e + 1)])\n"
        "def test_calls():\n"
        "    net = mx.gluon.nn.HybridSequential()\n"
        "    net.add(mx.gluon.nn.Dense(2), mx.gluon.nn.Dense(3))\n"
        "    net.initialize()\n"
        "    assert net(mx.nd.ones((1, 4))).shape == (1, 3)\n"
        "    assert net._active\n"
    )
    kept = checkout / "run.json"
    done = run(checkout, "--inference", "--json", str(kept))
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(kept.read_text())["on"][FILE]
    assert [results[id_of(test)]["did"]["engine_runs"] for test in ("checks", "calls")] == [1, 1]
    done = run(checkout, "--plain", str(kept))
    assert "is of a run with --inference" in done.stderr


A, B = id_of("a"), id_of("b")
PASSED, FAILED, CRASHED = (
    Result("passed"),
    Result("failed", "no\nwhy"),
    Result("crashed", "SIGSEGV"),
)


def judged(
    plain: Result, on: Result, repeats: Repeats, known: dict[str, str] | None = None
) -> Verdict:
    """The verdict on one test."""
    return judge({FILE: {A: plain}}, {FILE: {A: on}}, {A: repeats}, known or {})


@pytest.mark.parametrize(
    ("plain", "on", "repeats", "expected"),
    [
        (PASSED, FAILED, Repeats(3, 0, 3, False), "difference"),
        (PASSED, FAILED, Repeats(3, 2, 3, False), "difference"),
        (PASSED, FAILED, Repeats(3, 3, 3, True), "difference"),
        (PASSED, FAILED, Repeats(3, 3, 3, False), "flaky"),
        (PASSED, FAILED, Repeats(2, 0, 3, False), "flaky"),
        (PASSED, Result("skipped"), Repeats(3, 0, 3, False), "difference"),
        (FAILED, FAILED, Repeats(0, 0, 3, False), "same"),
        (FAILED, PASSED, Repeats(0, 3, 3, False), "same"),
    ],
)
def test_repetition_tells_a_difference_from_what_is_flaky(plain, on, repeats, expected):
    """It is one if plain MXNet passes every time and engines do not, alone or in their place."""
    verdict = judged(plain, on, repeats)
    assert (A in verdict.differences, A in verdict.flaky) == (
        expected == "difference",
        expected == "flaky",
    )
    assert verdict.passed == (expected != "difference")


def test_tests_run_again_alone_with_other_seeds_and_then_in_their_place():
    """Only what went well alone is tried after the tests before it."""
    plain = {"a": FAILED, "b": PASSED, "c": PASSED, "d": PASSED}
    calls = []

    def run(file, mode, only, repetition):
        calls.append((mode.name, list(only), repetition))
        alone = {"a": CRASHED, "b": PASSED, "c": FAILED}
        return (
            plain if mode.name == "plain" else alone | {"b": CRASHED} if len(only) == 2 else alone
        )

    found = again(run, FILE, ["a", "b", "c"], plain, 2)
    assert calls == [
        *((mode, ["a", "b", "c"], n) for n in range(2) for mode in ("plain", "on")),
        ("on", ["a", "b"], 0),
    ]
    assert found == {
        "a": Repeats(2, 0, 2, False),
        "b": Repeats(2, 2, 2, True),
        "c": Repeats(2, 0, 2, False),
    }


def test_what_is_known_passes_while_it_is_true():
    """A known difference is listed; an entry whose test ran and agrees fails, others do not."""
    difference = PASSED, FAILED, Repeats(3, 0, 3, False)
    listed = judged(*difference, {A: "Because."})
    assert (listed.passed, dict(listed.known)) == (True, {A: "Because."})
    untrue = judged(PASSED, PASSED, Repeats(0, 0, 0, False), {A: "Because."})
    assert (untrue.passed, untrue.untrue) == (False, [A])
    assert judged(*difference, {A: "Because.", B: "It did not run."}).passed
    assert "Because." in table({FILE: {A: PASSED}}, {FILE: {A: FAILED}}, listed)


def test_every_known_difference_has_its_reason():
    """The file names tests of MXNet, each with one sentence."""
    known = json.loads(Path(__file__).with_name("known.json").read_text())
    for test, reason in known.items():
        assert test.startswith("tests/python/")
        assert "::" in test
        assert reason.endswith(".")


def test_names_of_files(checkout):
    """They stand for files below tests/python; what is not there is one sentence."""
    assert files_of(checkout, []) == files_of(checkout, ["unittest/test_small.py"]) == [FILE]
    with pytest.raises(SystemExit, match=r"test_other\.py does not exist"):
        files_of(checkout, ["test_other"])
    with pytest.raises(SystemExit, match="give a checkout of Apache MXNet"):
        files_of(checkout / "tests", [])
