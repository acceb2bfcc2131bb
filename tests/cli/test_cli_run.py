"""``mxtrt run``: an unchanged script in a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

RUN = ("-m", "mxtrt", "run")

SHOW = """
import json, os, subprocess, sys
import helper
child = "import os; print(os.environ['USE_TENSORRT'])"
print(json.dumps({
    "argv": sys.argv,
    "name": __name__,
    "first": sys.path[0],
    "child": subprocess.check_output([sys.executable, "-c", child], text=True).strip(),
    "helper": helper.HERE,
    "hook": sys.excepthook is sys.__excepthook__,
}))
"""

INFER = """
import mxnet as mx
net = mx.gluon.nn.Dense(2, in_units=3)
net.initialize()
net.hybridize()
net(mx.nd.ones((1, 3))).wait_to_read()
import mxtrt
print(mxtrt.last_report().nodes_in_engine)
"""


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], Path]:
    """Write a script with a module beside it."""

    def write(text: str, name: str = "script.py") -> Path:
        folder = tmp_path / "folder"
        folder.mkdir(exist_ok=True)
        (folder / "helper.py").write_text("HERE = 'helped'\n")
        (folder / name).write_text(text)
        return folder / name

    return write


def test_script_runs_as_python_would_run_it(
    script: Callable[..., Path], python: Callable[..., Any]
) -> None:
    """Arguments, name, path and children; options of the script are the script's."""
    path = script(SHOW)
    words = ["--json", "--help", "-m", "x", "--", "--shape", "a b"]
    result = python([*RUN, path, *words])
    assert result.code == 0, result.err
    assert result.json == {
        "argv": [str(path), *words],
        "name": "__main__",
        "first": str(path.parent),
        "child": "1",
        "helper": "helped",
        "hook": True,
    }


def test_module_runs_as_python_would_run_it(
    script: Callable[..., Path], python: Callable[..., Any]
) -> None:
    """``-m`` finds modules in the current folder."""
    path = script(SHOW, "tool.py")
    result = python([*RUN, "-m", "tool", "--json", "-m", "y"], cwd=path.parent)
    assert result.code == 0, result.err
    assert result.json["argv"] == [str(path), "--json", "-m", "y"]
    assert result.json["name"] == "__main__"
    assert result.json["first"] == str(path.parent)


def test_binds_of_the_script_use_engines(
    script: Callable[..., Path], python: Callable[..., Any]
) -> None:
    """The script does not know of mxtrt, whatever the environment said before."""
    result = python([*RUN, script(INFER)], USE_TENSORRT="0")
    assert (result.code, result.out) == (0, "1\n"), result.err


@pytest.mark.parametrize(
    ("text", "code", "part"),
    [
        ("raise SystemExit(5)", 5, ""),
        ("raise SystemExit('stopped')", 1, "stopped\n"),
        ("import os; os._exit(7)", 7, ""),
        ("raise KeyError('mine')", 1, "KeyError: 'mine'"),
        ("import mxtrt; raise mxtrt.OptionError('mine')", 1, "mxtrt.errors.OptionError: mine"),
        ("import typer; raise typer.Exit(3)", 1, "Traceback"),
        ("raise BrokenPipeError('mine')", 1, "BrokenPipeError: mine"),
        ("raise KeyboardInterrupt", -2, "KeyboardInterrupt"),
        ("syntax error", 1, "SyntaxError"),
        ("import no_such_module", 1, "ModuleNotFoundError"),
    ],
)
def test_ends_of_the_script_pass_through(
    script: Callable[..., Path], python: Callable[..., Any], text: str, code: int, part: str
) -> None:
    """Exit codes and exceptions are as without mxtrt."""
    path = script(text)
    result, plain = python([*RUN, path]), python([path])
    assert result.code == plain.code == code
    assert part in result.err
    assert result.err.splitlines()[-1:] == plain.err.splitlines()[-1:]


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ((), "mxtrt run needs a script"),
        (("none.py",), "none.py does not exist; give the path of a Python script or of a program"),
        (("--fast", "script.py"), "mxtrt run has no option --fast; give the script first"),
        (("-m",), "option -m needs a module"),
        (("-m", "no.such.module"), "there is no module 'no.such.module' to run"),
        (("-m", "onnx.onnx_cpp2py_export.nothing"), "there is no module"),
        (("-m", ".relative"), "there is no module '.relative'"),
        (("-m", "mxtrt.convert.ops"), "there is no module 'mxtrt.convert.ops' to run"),
        ((".",), "the script . is a directory without __main__.py"),
    ],
)
def test_what_cannot_run_is_named(
    mxtrt_cli: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    part: str,
) -> None:
    """One sentence, and nothing ran."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", ["", *__import__("sys").path])
    assert part in mxtrt_cli("run", *words).sentence()
