"""Sessions of the project; ``nox -l`` lists them.

``nox -s demo`` sets everything up and runs the main job on the embedded CPU engine;
``nox -s tests`` sets everything up and passes the tests.
"""

from __future__ import annotations

import nox

nox.needs_version = ">=2024.4"
nox.options.default_venv_backend = "venv"
nox.options.sessions = ["lint", "typecheck", "tests"]
nox.options.reuse_existing_virtualenvs = True

PYTHONS = ["3.10", "3.11", "3.12"]


@nox.session
def demo(session: nox.Session) -> None:
    """Train a small network, classify a picture, and show what the engine did."""
    session.install(".[demo]")
    session.run("mxtrt", "demo", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Everything that passes or fails, on this Python."""
    session.install(".[dev]")
    session.run("pytest", "-m", "not slow", *session.posargs)


@nox.session(python=PYTHONS)
def tests_all(session: nox.Session) -> None:
    """The tests on every Python that is installed, the slow ones included."""
    session.install(".[dev]")
    session.run("pytest", *session.posargs)


@nox.session
def gpu_tests(session: nox.Session) -> None:
    """TensorRT on this machine's GPU; skipped with one sentence where there is none."""
    session.install(".[gpu,test]")
    session.run("pytest", "tests/gpu", *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Random graphs against plain MXNet and a reference: ``nox -s fuzz -- --examples 20000``."""
    session.install(".[cpu,cluster]")
    session.run("mxtrt", "fuzz", "--json", "fuzz-report.json", *session.posargs)


@nox.session
def zoo(session: nox.Session) -> None:
    """All 34 networks of the model zoo, and others, against plain MXNet, as tables (minutes)."""
    session.install(".[dev]")
    session.run("pytest", "tests/test_zoo.py", "tests/models", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Speed, node overhead, partition time and memory against plain MXNet (minutes).

    With ``-- --gpu``: on this machine's GPU, beside bare TensorRT.
    """
    if "--gpu" in session.posargs:
        session.install(".[gpu,test]")
        session.run("pytest", "tests/bench/test_gpu_speed.py", *session.posargs)
    else:
        session.install(".[dev]")
        session.run("pytest", "tests/bench", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Style of the Python code."""
    session.install("ruff")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def typecheck(session: nox.Session) -> None:
    """Types of the package and the fuzzer."""
    session.install("mypy", ".[fuzz]")
    session.run("mypy")
