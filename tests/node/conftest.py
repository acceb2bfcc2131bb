"""A stand-in for NVIDIA's driver."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.cuda import SETUP
from support.process import run


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the stand-in driver."""
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("the stand-in for NVIDIA's driver needs a C++ compiler")
    folder = tmp_path_factory.mktemp("driver")
    source = Path(__file__).with_name("fake_cuda.cc")
    command = [compiler, "-std=c++17", "-O1", "-fPIC", "-shared", "-fvisibility=hidden"]
    subprocess.run([*command, "-o", folder / "libcuda.so.1", source], check=True)
    return folder


@pytest.fixture
def check(driver: Path) -> Callable[[str], None]:
    """Runs a script in a process with the stand-in driver."""

    def check(script: str) -> None:
        done = run(SETUP + script, LD_LIBRARY_PATH=str(driver))
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == "ok"

    return check
