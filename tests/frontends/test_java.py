"""A program in Java that makes DJL's calls through JNA, with engines."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.programs import agree, runs

#: Where Debian's libjna-java puts it.
JNA = Path("/usr/share/java/jna.jar")


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the compiled program."""
    if not (shutil.which("javac") and shutil.which("java") and JNA.exists()):
        pytest.skip("this machine has no JDK with JNA (default-jdk-headless and libjna-java)")
    folder = tmp_path_factory.mktemp("classes")
    source = Path(__file__).with_name("Client.java")
    command = ["javac", "-Xlint:all", "-Werror", "-cp", JNA, "-d", folder, source]
    subprocess.run(command, check=True)
    return folder


@pytest.fixture
def ask(classes: Path, launch: Callable[..., Any]) -> Callable[..., Any]:
    """Runs the program; the numbers that it writes, and its standard error."""

    def asked(way: str, model: Path, *, static: bool = True, **changes: Any) -> Any:
        flags = [f"-Dai.djl.mxnet.static_{what}={static}" for what in ("alloc", "shape")]
        java = ["java", "-Xmx256m", *flags, "-cp", f"{JNA}:{classes}", "Client"]
        return launch(*java, way, f"{model}.json", f"{model}.params", "OUT", 4, **changes)

    return asked


@pytest.mark.parametrize("name", ["model", "mixed"])
def test_predictors_of_djl_agree_with_plain_mxnet(ask, request, name):
    """Batch sizes and weights change; garbage is collected and null pointers are caught between."""
    model = request.getfixturevalue(name)
    plain, _ = ask("predict", model, on=False)
    ours, told = ask("predict", model, MXTRT_BUILD="foreground")
    agree(ours, plain)
    assert runs(told) >= 24


def test_another_weight_at_a_handle_that_was_freed_is_another_weight(ask, model):
    """A CachedOp knows its weights by their memory."""
    plain, _ = ask("predict,reload", model, on=False)
    ours, told = ask("predict,reload", model, MXTRT_BUILD="foreground")
    agree(ours, plain)
    assert "the same handle" in told


@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize("name", ["model", "mixed"])
def test_threads_share_a_cached_op(ask, request, name, static):
    """As predictors do; plain MXNet, which they may stop, answers them one after another."""
    model = request.getfixturevalue(name)
    plain, _ = ask("threads,turns", model, static=static, on=False)
    ours, told = ask("threads", model, static=static, MXTRT_BUILD="foreground")
    agree(ours, plain)
    assert runs(told) >= 100  # while several ask Python at once MXNet answers some


def test_engines_in_the_background_agree(ask, mixed):
    """MXNet answers until they are there."""
    plain, _ = ask("predict,threads,turns", mixed, on=False)
    ours, _ = ask("predict,threads", mixed, MXTRT_BUILD="background")
    agree(ours, plain)


def test_a_program_may_exit_while_threads_ask(ask, model):
    """``System.exit`` comes from another thread; the library is found by LD_LIBRARY_PATH."""
    plain, _ = ask("predict,exit", model, on=False)
    ours, told = ask("predict,exit", model, MXNET_LIBRARY_PATH=None)
    agree(ours, plain)
    assert runs(told) > 0


def test_switched_off_nothing_is_started(ask, model):
    """The library is in front of MXNet's, and passes all on."""
    plain, _ = ask("predict", model, on=False)
    ours, told = ask("predict", model, USE_TENSORRT=None)
    np.testing.assert_array_equal(ours, plain)
    assert runs(told) == 0
