"""The command line as a whole: help, version, usage errors, wrong environments."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mxtrt
from mxtrt.errors import MxtrtError
from mxtrt.observe.text import bytes_text

COMMANDS = ("run", "inspect", "bench", "demo")

NO_ENGINE = """
import importlib.util, sys
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name == sys.argv[1] else found(name, *a)
from mxtrt.cli import main
main(sys.argv[2:])
"""


def test_version_is_printed(mxtrt_cli: Any) -> None:
    """The version alone, for scripts."""
    result = mxtrt_cli("--version")
    assert (result.code, result.out) == (0, f"mxtrt {mxtrt.__version__}\n")


@pytest.mark.parametrize("arguments", [(), ("--help",)])
def test_help_names_every_command(mxtrt_cli: Any, arguments: tuple[str, ...]) -> None:
    """Without a command there is help, too."""
    result = mxtrt_cli(*arguments)
    assert result.code == 0
    assert all(command in result.out for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(mxtrt_cli: Any, command: str) -> None:
    """Each command explains itself."""
    result = mxtrt_cli(command, "--help")
    assert result.code == 0
    assert f"mxtrt {command}" in result.out
    assert result.err == ""


def test_help_imports_neither_mxnet_nor_onnx(python: Callable[..., Any]) -> None:
    """Help answers at once."""
    code = (
        "import sys\nfrom mxtrt.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print({'mxnet', 'onnx', 'sklearn', 'skimage'} & set(sys.modules))"
    )
    assert python(["-c", code]).out.splitlines()[-1] == "set()"


def test_package_runs_as_a_module(python: Callable[..., Any]) -> None:
    """``python -m mxtrt`` is the same program."""
    result = python(["-m", "mxtrt", "--version"])
    assert (result.code, result.out) == (0, f"mxtrt {mxtrt.__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("fly",), "No such command 'fly'"),
        (("--quux",), "No such option: --quux"),
        (("inspect",), "Missing argument 'MODEL'"),
        (("bench", "m.json", "--seconds", "-1"), "--seconds"),
        (("bench", "m.json", "--quux"), "No such option: --quux; see: mxtrt bench --help"),
        (("bench", "none.json"), "the symbol file none.json does not exist"),
        (("inspect", "m.json", "--engine", "foo"), "option engine is 'foo', expected one of auto"),
    ],
)
def test_usage_errors_are_one_sentence(
    mxtrt_cli: Any, arguments: tuple[str, ...], part: str
) -> None:
    """On stderr, with exit code 2."""
    assert part in mxtrt_cli(*arguments).sentence()


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("MXTRT_ENGINE", "foo", "one of auto, onnxruntime"),
        ("USE_TENSORRT", "maybe", "0 or 1"),
        ("MXTRT_THREADS", "-3", "a number of threads"),
    ],
)
@pytest.mark.parametrize("command", [("inspect", "m"), ("bench", "m"), ("demo",), ("run", "m.py")])
def test_wrong_environment_is_named(
    mxtrt_cli: Any,
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
    variable: str,
    value: str,
    expected: str,
) -> None:
    """A bind warns of it; a command ends."""
    monkeypatch.setenv(variable, value)
    sentence = mxtrt_cli(*command).sentence()
    assert f"environment variable {variable} is {value!r}, expected {expected}" in sentence


def test_missing_mxnet_is_named(
    mxtrt_cli: Any, gluon_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user installs MXNet."""
    monkeypatch.setitem(sys.modules, "mxnet", None)
    result = mxtrt_cli("inspect", gluon_model.symbol, "--shape", "data:1,3,8,8")
    assert "pip install mxnet==1.9.1" in result.sentence()


def test_missing_engine_is_named(gluon_model: Any, python: Callable[..., Any]) -> None:
    """Bench needs an engine, and does not measure MXNet against itself without one."""
    shape = "data:1,3,8,8"
    arguments = ["-c", NO_ENGINE, "onnxruntime", "bench", gluon_model.symbol, "--shape", shape]
    assert "pip install 'mxtrt[cpu]'" in python(arguments).sentence()


@pytest.mark.parametrize("package", ["skimage", "sklearn"])
def test_demo_names_the_extra_that_it_needs(package: str, python: Callable[..., Any]) -> None:
    """The pictures and the digits come with packages that nobody else needs."""
    sentence = python(["-c", NO_ENGINE, package, "demo"]).sentence()
    assert package in sentence
    assert "pip install 'mxtrt[demo]'" in sentence


@pytest.mark.parametrize(
    "command",
    [
        "calibrate net.json --data x.npz --out",
        "coverage models --json",
        "export net.json --onnx",
        "fuzz --json",
        "gate run.json --again",
        "report run.json --html",
        "report run.json --markdown",
    ],
)
@pytest.mark.parametrize("name", ["", "no/such/folder/file"])
def test_a_file_that_cannot_be_written_is_refused_before_any_work(
    command: str, name: str, mxtrt_cli: Any, tmp_path: Path
) -> None:
    """Not after an hour of it: even what is to be read is not looked at."""
    option = command.split()[-1]
    sentence = mxtrt_cli(*command.split(), tmp_path / name).sentence()
    assert option in sentence
    assert "name a file" in sentence


def test_an_error_is_on_one_line(mxtrt_cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever an engine says is put on one line."""

    def fail() -> None:
        raise MxtrtError("first\n  second\n")

    monkeypatch.setattr("mxtrt.config.current", fail)
    assert mxtrt_cli("demo").sentence() == "first second"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (-(2**20), "-1.0 MiB"),
        (2**42, "4096.0 GiB"),
    ],
)
def test_bytes_are_readable(count: int, text: str) -> None:
    """Growth may be negative."""
    assert bytes_text(count) == text
