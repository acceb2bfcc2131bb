"""How long a node takes its runs to take, which decides where the next one is made."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def usual_time(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, int], int]:
    """The function of ``node.h``: what was known, and what a run took."""
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("a function of the node alone needs a C++ compiler")
    made = tmp_path_factory.mktemp("node") / "libusual_time.so"
    source = Path(__file__).with_name("usual_time.cc")
    command = [compiler, "-std=c++17", "-O1", "-fPIC", "-shared", "-o", made, source]
    subprocess.run(command, check=True)
    function = ctypes.CDLL(str(made)).usual_time
    function.restype, function.argtypes = ctypes.c_long, (ctypes.c_long, ctypes.c_long)
    return lambda before, now: int(function(before, now))


def test_the_first_run_and_a_shorter_one_count_as_they_are(usual_time):
    """The first one at some shapes allocates memory, later ones do not."""
    assert usual_time(-1, 5_000_000) == 5_000_000
    assert usual_time(5_000_000, 130_000) == 130_000


def test_a_run_that_had_to_wait_for_a_processor_hardly_counts(usual_time):
    """A thread of many is taken off its processor for milliseconds in the middle of a run."""
    assert 130_000 < usual_time(130_000, 8_000_000) < 150_000
    assert usual_time(usual_time(130_000, 8_000_000), 130_000) == 130_000


def test_runs_that_take_longer_from_now_on_are_believed(usual_time):
    """From below the limit of ``inline_below`` to far above in a few dozen runs."""
    known = 100_000
    for _ in range(40):
        known = usual_time(known, 8_000_000)
    assert known == 8_000_000
    assert usual_time(0, 8) == 1
