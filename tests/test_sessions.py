"""Every command of nox that the workflows and the documentation tell, held against the noxfile.

Nothing is installed or run: a stand-in for nox's session notes what would be.
"""

from __future__ import annotations

import glob
import importlib.util
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import typer
from packaging.requirements import Requirement

from mxtrt.cli import app
from mxtrt.config import ENGINES
from mxtrt_fuzz.profiles import PROFILES

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # which comes with pytest

nox = pytest.importorskip("nox", reason="the sessions need nox: pip install 'mxtrt[dev]'")
yaml = pytest.importorskip("yaml", reason="the workflows need PyYAML: pip install 'mxtrt[dev]'")

ROOT = Path(__file__).parents[1]
GPU_WORKFLOW = ".github/workflows/gpu.yml"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
#: The extra that brings what a command of mxtrt imports, where it is not an engine's.
NEEDED = {"baseline": "bench", "demo": "demo", "fuzz": "fuzz", "gate": "bench", "report": "bench"}
#: What takes no MXNet: tools that look at sources, and the commands of mxtrt that look at runs.
WITHOUT_MXNET = {"check-jsonschema", "clang-format", "clang-tidy", "lint-imports", "mypy", "ruff"}
WITHOUT_MXNET |= {"zizmor", *(("mxtrt", name) for name in ("baseline", "gate", "report"))}


@dataclass(frozen=True)
class Command:
    """One session of a ``nox -s`` command.

    Attributes:
        session: Name of the session.
        arguments: What follows ``--``.
        where: The file that tells it.
    """

    session: str
    arguments: tuple[str, ...]
    where: str

    def __str__(self) -> str:
        """As it is typed."""
        return shlex.join(
            ["nox", "-s", self.session, *["--"][: len(self.arguments)], *self.arguments]
        )

    @property
    def says_gpu(self) -> bool:
        """Whether it names a GPU, or comes from the workflow of one."""
        return self.where == GPU_WORKFLOW or bool(re.search("gpu|tensorrt", str(self)))


def _told() -> Iterator[tuple[str, str]]:
    """The lines of code in workflows, scripts and documentation, each with its file."""
    for path in (".github/workflows/ci.yml", GPU_WORKFLOW):
        for job in yaml.safe_load((ROOT / path).read_text())["jobs"].values():
            for step in job["steps"]:
                yield from ((line, path) for line in step.get("run", "").splitlines())
    for path in (".ci/run", "README.md", "CONTRIBUTING.md", "noxfile.py"):
        for line in (ROOT / path).read_text().splitlines():
            yield from ((code, path) for code in line.split("`"))


def _commands() -> list[Command]:
    """The commands, each session once."""
    found = {}
    for line, where in _told():
        for told in re.findall(r"\bnox -s (.+)", line):
            words = shlex.split(re.split("&&|[|;]", told)[0], comments=True)
            end = words.index("--") if "--" in words else len(words)
            for name in words[:end]:
                found[Command(name, tuple(words[end + 1 :]), where)] = None
    return list(found)


COMMANDS = _commands()
each_command = pytest.mark.parametrize("command", COMMANDS, ids=lambda c: f"{c.where}: {c}")


@dataclass
class Session:
    """Stands in for ``nox.Session`` and notes what it is to do.

    Attributes:
        posargs: The arguments of the session.
        python: The Python that is asked for, None for that of nox.
        done: What is installed, uninstalled and run, in order.
        warnings: What it warns of.
    """

    posargs: list[str]
    python: str | None = "3.10"
    done: list[tuple[str, ...]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def install(self, *arguments: str, **options: Any) -> None:
        self.done.append(("install", *arguments))

    def run_install(self, *command: str, **options: Any) -> None:
        self.done.append(command)

    def run(self, *command: str, **options: Any) -> None:
        self.done.append(command)
        if command[:2] == ("mxtrt", "gate") and "--again" in command:  # so that it is run again
            Path(command[command.index("--again") + 1]).write_text("zoo/net/1\n")

    def log(self, message: str) -> None:
        pass

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    @property
    def commands(self) -> list[tuple[str, ...]]:
        """What it runs once all is installed."""
        return [done for done in self.done if done[0] not in ("install", "pip")]

    @property
    def extras(self) -> set[str]:
        """The extras of mxtrt that it installs, with those that they bring."""
        wheels = [a for done in self.done if done[0] == "install" for a in done[1:] if a[0] == "."]
        waiting = [name for wheel in wheels for name in wheel[2:-1].split(",") if name]
        found: set[str] = set()
        while waiting:
            name = waiting.pop()
            found.add(name)
            others = [Requirement(line) for line in EXTRAS[name]]
            waiting += {
                e for other in others if other.name == "mxtrt" for e in other.extras
            } - found
        return found


@pytest.fixture(scope="module")
def sessions() -> dict[str, Callable[[Any], None]]:
    """The sessions of the noxfile by name."""
    spec = importlib.util.spec_from_file_location("noxfile", ROOT / "noxfile.py")
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    return nox.registry.get()


@pytest.fixture
def start(
    sessions: dict[str, Callable[[Any], None]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Session]:
    """Go through a session on a machine with or without a GPU."""
    found = glob.glob
    monkeypatch.chdir(tmp_path)

    def go(command: Command, has_gpu: bool, python: str = "3.10") -> Session:
        def devices(pattern: str, **options: Any) -> list[str]:
            if pattern.startswith("/dev/"):
                return ["/dev/nvidia0"] * (has_gpu and pattern.startswith("/dev/nvidia"))
            return found(pattern, **options)

        monkeypatch.setattr(glob, "glob", devices)
        assert command.session in sessions, f"{command.where} tells of {command}"
        session = Session(list(command.arguments), python)
        sessions[command.session](session)
        return session

    return go


def _parse(command: tuple[str, ...]) -> dict[str, Any]:
    """What a command of mxtrt is given, by its own parser; it does not run.

    Raises:
        Exception: A usage error: it does not parse.
    """
    given: dict[str, Any] = {}
    group: Any = typer.main.get_command(app)
    for one in group.commands.values():
        one.callback = lambda **values: given.update(values)
    group.main(list(command[1:]), prog_name="mxtrt", standalone_mode=False)
    return given


def test_commands_are_found() -> None:
    """In every file; those of the GPU's workflow are all there."""
    assert {command.where for command in COMMANDS} >= {
        *(".github/workflows/ci.yml", GPU_WORKFLOW, ".ci/run", "README.md", "CONTRIBUTING.md")
    }
    on_gpu = {command.session for command in COMMANDS if command.where == GPU_WORKFLOW}
    assert {"gpu_tests", "fuzz", "bench", "gate", "report"} <= on_gpu


@each_command
def test_a_session_installs_what_its_commands_need(
    command: Command, start: Callable[..., Session]
) -> None:
    """The extras exist and bring it; the tests and scripts that are run exist too."""
    session = start(command, has_gpu=True)
    for tool, *arguments in session.commands:
        if tool in ("pytest", "python"):
            assert "test" in session.extras
        if tool == "mxtrt":
            assert NEEDED[arguments[0]] in session.extras
        for path in (word for word in arguments if word.startswith("tests/")):
            assert (ROOT / path).exists()
    assert session.warnings == []


@each_command
def test_a_session_has_mxnet_for_its_processor(
    command: Command, start: Callable[..., Session]
) -> None:
    """Never that for the other one, and none where files are all that is read."""
    for has_gpu in (True,) if command.says_gpu else (True, False):
        session = start(command, has_gpu)
        kinds = {done[:2] if done[0] == "mxtrt" else done[0] for done in session.commands}
        if kinds <= WITHOUT_MXNET:
            expected = set()
        else:
            found = has_gpu and (command.session == "demo" or "nightly" in command.arguments)
            expected = {"gpu" if command.says_gpu or found else "cpu"}
        assert session.extras & {"cpu", "gpu"} == expected


@each_command
def test_the_commands_of_a_session_parse(command: Command, start: Callable[..., Session]) -> None:
    """Every option exists, and profiles and engines too."""
    for one in start(command, has_gpu=True).commands:
        if one[0] == "mxtrt":
            given = _parse(one)
            assert given.get("profile", "ci") in PROFILES
            assert given.get("engine") in (None, *ENGINES)


def test_the_workflow_of_gpus_fuzzes_in_tensorrt(start: Callable[..., Session]) -> None:
    """By name: else ONNX Runtime takes its place on a runner that lost its GPU."""
    told = [c for c in COMMANDS if c.where == GPU_WORKFLOW and c.session == "fuzz"]
    given = [_parse(one) for command in told for one in start(command, True).commands]
    assert {one["profile"] for one in given} == {"gpu", "nightly"}
    assert {one["engine"] for one in given} == {"tensorrt"}


@pytest.mark.parametrize(
    ("told", "with_gpu", "without"),
    [
        ("demo", "gpu", "cpu"),
        ("fuzz", "cpu", "cpu"),
        ("fuzz -- --profile nightly", "gpu", "cpu"),
        ("fuzz -- --profile nightly --engine onnxruntime", "cpu", "cpu"),
        ("fuzz -- --profile=nightly --engine=tensorrt", "gpu", "gpu"),
        ("fuzz -- --profile=gpu", "gpu", "gpu"),
        ("fuzz -- --profile gpu-context --examples 5", "gpu", "gpu"),
        ("fuzz -- --replay gpu --engine=tensorrt", "gpu", "gpu"),
        ("fuzz -- --replay gpu", "cpu", "cpu"),
        ("bench", "cpu", "cpu"),
        ("bench -- --quick --gpu", "gpu", "gpu"),
        ("bench_tables -- --gpu", "gpu", "gpu"),
        ("gate -- --gpu", "gpu", "gpu"),
        ("soak -- --seconds 600", "cpu", "cpu"),
        ("gpu_tests", "gpu", "gpu"),
    ],
)
def test_arguments_decide_and_the_machine_where_they_leave_it_open(
    told: str, with_gpu: str, without: str, start: Callable[..., Session]
) -> None:
    """The other distribution of MXNet, whose files are the same, leaves the environment first."""
    name, _, arguments = told.partition(" -- ")
    for has_gpu, engine in ((True, with_gpu), (False, without)):
        session = start(Command(name, tuple(arguments.split()), "here"), has_gpu)
        assert session.extras & {"cpu", "gpu"} == {engine}
        (other,) = [
            requirement.name
            for requirement in map(Requirement, EXTRAS["cpu" if engine == "gpu" else "gpu"])
            if requirement.name.startswith("mxnet")
        ]
        assert session.done[0] == ("pip", "uninstall", "--yes", other)
        assert session.done[1][0] == "install"


def test_the_gate_takes_options_in_one_word(start: Callable[..., Session]) -> None:
    """As in two: the baseline is for the gate, and a suite is a part of all."""
    one = start(Command("gate", ("--baseline=b", "--suite=micro"), "here"), False)
    two = start(Command("gate", ("--baseline", "b", "--suite", "micro"), "here"), False)
    assert one.done == two.done
    assert [done for done in one.commands if done[:2] == ("mxtrt", "gate")][-1][-2:] == (
        "--baseline",
        "b",
    )


@pytest.mark.parametrize(("name", "engine"), [("gpu_tests", "gpu"), ("demo", "cpu")])
@pytest.mark.parametrize("python", ["3.12", "python3.13.10"])
def test_a_python_without_tensorrt_is_warned_of(
    python: str, name: str, engine: str, start: Callable[..., Session]
) -> None:
    """Once, and the session goes on; what did not ask for a GPU takes the CPU."""
    session = start(Command(name, (), "here"), True, python)
    (warning,) = session.warnings
    assert re.search(r"only, and this is 3\.1[23]: add --force-python 3\.10", warning)
    assert session.extras & {"cpu", "gpu"} == {engine}
    assert start(Command("demo", (), "here"), False, python).warnings == []
