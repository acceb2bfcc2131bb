"""Sessions of the project; ``nox -l`` lists them.

``nox -s demo`` sets everything up and runs the main job, in TensorRT where the machine has a GPU;
``nox -s tests`` sets everything up and passes the tests.
"""

from __future__ import annotations

import glob
import itertools
import platform
import re
from collections.abc import Iterable

import nox

nox.needs_version = ">=2024.4"
nox.options.default_venv_backend = "venv"
nox.options.sessions = ["lint", "typecheck", "tests"]
nox.options.reuse_existing_virtualenvs = True

PYTHONS = ["3.10", "3.11", "3.12"]

TENSORRT_PYTHON = "3.10"  # the last that the TensorRT of mxtrt[gpu] is for


def _install(session: nox.Session, *extras: str, processor: str | None = None) -> None:
    """Install mxtrt with MXNet and an engine for the CPU or the GPU: the one place that decides.

    Args:
        session: The session.
        extras: What it needs besides.
        processor: ``cpu``, ``gpu``, or ``any`` for the GPU where the machine has one; by default
            what the session's arguments ask for.
    """
    on_gpu = _on_gpu(session, processor or _asked_for(session.posargs))
    engine, other = ("gpu", "mxnet") if on_gpu else ("cpu", "mxnet-cu117")
    # Both distributions of MXNet own the same files, and the environment may have the other.
    session.run_install("pip", "uninstall", "--yes", other, silent=True)
    session.install(f".[{','.join((engine, *extras))}]")


def _on_gpu(session: nox.Session, processor: str) -> bool:
    """Whether a session is for the GPU; warns where mxtrt[gpu] has no TensorRT for its Python."""
    has_gpu = glob.glob("/dev/nvidia[0-9]*") + glob.glob("/dev/dxg")  # in Windows
    if processor == "cpu" or (processor == "any" and not has_gpu):
        return False
    python = re.search(r"3\.\d+", f"{session.python} {platform.python_version()}")[0]
    if python == TENSORRT_PYTHON:
        return True
    session.warn(
        f"mxtrt[gpu] has TensorRT for Python {TENSORRT_PYTHON} only, and this is {python}: add "
        f"--force-python {TENSORRT_PYTHON}, or NVIDIA's package tensorrt-cu12 to the environment "
        "in .nox"
    )
    return processor == "gpu"


def _asked_for(arguments: Iterable[str]) -> str:
    """The processor that a session's arguments ask for, as :func:`_install` takes it."""
    options = _options(arguments)
    profile, engine = options.get("--profile"), options.get("--engine", "auto")
    if "--gpu" in options or profile in ("gpu", "gpu-context") or engine == "tensorrt":
        return "gpu"
    return "any" if profile == "nightly" and engine == "auto" else "cpu"


def _words(arguments: Iterable[str]) -> list[str]:
    """Arguments with ``--option=value`` as two."""
    return [
        word
        for argument in arguments
        for word in (argument.split("=", 1) if argument.startswith("--") else [argument])
    ]


def _options(arguments: Iterable[str]) -> dict[str, str]:
    """The options among arguments, each with the word that follows it."""
    pairs = itertools.pairwise([*_words(arguments), ""])
    return {name: value for name, value in pairs if name.startswith("--")}


@nox.session
def demo(session: nox.Session) -> None:
    """Train a small network, classify a picture, and show what the engine did.

    On TensorRT where the machine has a GPU.
    """
    _install(session, "demo", processor="any")
    session.run("mxtrt", "demo", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Everything that passes or fails, on this Python."""
    session.install(".[dev]")
    session.run("pytest", "-n", "2", "-m", "not slow", *session.posargs)


@nox.session(python=PYTHONS)
def tests_all(session: nox.Session) -> None:
    """The tests on every Python that is installed, the slow ones included."""
    session.install(".[dev]")
    session.run("pytest", *session.posargs)


@nox.session
def gpu_tests(session: nox.Session) -> None:
    """TensorRT on this machine's GPU; skipped with one sentence where there is none."""
    _install(session, "test", "demo", processor="gpu")
    session.run("pytest", "tests/gpu", *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Random graphs against plain MXNet and a reference: ``nox -s fuzz -- --examples 20000``.

    ``--profile gpu``, ``--profile gpu-context`` and ``--engine tensorrt`` for TensorRT on this
    machine's GPU; ``--profile nightly`` takes it where there is one.
    """
    _install(session, "cluster")
    session.run("mxtrt", "fuzz", "--json", "fuzz-report.json", *session.posargs)


@nox.session
def soak(session: nox.Session) -> None:
    """Mixed load on several threads, every reply checked: ``nox -s soak -- --seconds 600``."""
    _install(session, "test")
    session.run("python", "-W", "ignore", "tests/soak/soak.py", *session.posargs)


@nox.session
def mxnet_suite(session: nox.Session) -> None:
    """MXNet's own unit tests, plain and on: ``nox -s mxnet_suite -- --mxnet-source DIR``.

    ``DIR`` is a checkout of Apache MXNet 1.9.1; names of files such as ``test_gluon`` after it run
    those alone, and ``--jobs 4`` four at a time.  Fails for a test that passes in plain MXNet only.
    """
    # pynose is nose, which the tests import, for today's Python.
    session.install(".[cpu,test]", "pynose", "requests", "scipy")
    session.run("python", "tests/mxnet_suite/suite.py", *session.posargs)


@nox.session
def zoo(session: nox.Session) -> None:
    """All 34 networks of the model zoo, and others, against plain MXNet, as tables (minutes)."""
    session.install(".[dev]")
    session.run("pytest", "tests/test_zoo.py", "tests/models", *session.posargs)


RUN = "RUN.json"


def _bench(session: nox.Session, *arguments: str, file: str = RUN) -> None:
    """Run the suites; the ratio of two single-threaded calls tells nothing of the other cores.

    On a GPU plain MXNet has what it takes by itself.
    """
    options = _options(arguments)
    number = options.get("--bench-threads", "1")
    threads = {} if "--gpu" in options else {"OMP_NUM_THREADS": number}
    session.run(
        "pytest",
        "tests/bench",
        "-k",
        "suite",
        f"--benchmark-json={file}",
        *arguments,
        env=threads,
    )


@nox.session
def bench(session: nox.Session) -> None:
    """Run the suites zoo, micro, mixed, bert and load; writes RUN.json (half an hour on two cores).

    ``--quick`` for a few of each, ``--suite micro`` for one suite, ``--counters-only`` for no
    latencies, ``--bench-seconds 30`` for narrower intervals, ``--bench-threads 2`` for more threads
    of either side, ``--gpu`` for TensorRT on this machine's GPU, with ``--bench-lanes 8`` of it at
    the most.  What has no baseline: ``--suite
    operators``, every kind of operator alone, and ``--suite networks``, all of the model zoo; with
    ``--bench-prefer auto`` as users have them.
    """
    _install(session, "test")
    _bench(session, *session.posargs)


@nox.session
def bench_tables(session: nox.Session) -> None:
    """Tables to read: speed, changing shapes, resident memory; with ``--gpu`` on a GPU."""
    _install(session, "test")
    if "--gpu" in session.posargs:
        paths = ["tests/bench/test_gpu_speed.py"]
    else:
        names = "test_speed", "test_changing_shapes", "test_resident_memory"
        paths = [f"tests/bench/{name}.py" for name in names]
    session.run("pytest", *paths, *session.posargs)


@nox.session
def gate(session: nox.Session) -> None:
    """Hold RUN.json against this machine's baseline; what is too noisy to tell is run again, twice.

    Takes the arguments of ``bench`` for running again; ``-- --counters-only`` compares counters
    alone, with the baseline that ``--baseline DIR`` names or this machine's.
    """
    arguments = _words(session.posargs)
    given: list[str] = []
    if "--baseline" in arguments:
        at = arguments.index("--baseline")
        given = arguments[at : at + 2]
        del arguments[at : at + 2]
    _install(session, "test")
    runs, seconds = [RUN], 16
    for attempt in (1, 2):
        again = "again.txt"
        command = ["mxtrt", "gate", *runs, *given, "--again", again]
        session.run(*command, success_codes=[0, 1, 3])
        with open(again) as file:
            undecided = file.read().split()
        if not undecided:
            break
        session.log(f"{len(undecided)} benchmarks were too noisy to tell; run {attempt + 1}")
        runs.append(f"RUN{attempt + 1}.json")
        _bench(
            session, "--again", again, "--bench-seconds", str(seconds), *arguments, file=runs[-1]
        )
        seconds *= 2
    session.run("mxtrt", "gate", *runs, *given)


@nox.session
def counters(session: nox.Session) -> None:
    """What is the same on every machine: exact counters of a few suites against a baseline.

    Writes report.html and report.md too; latencies are for ``gate``.
    """
    session.install(".[cpu,test]")
    _bench(session, "--quick", "--counters-only")
    baseline = "--baseline", "baselines/amd-epyc-25-17_onnxruntime_mxnet-1.9.1"
    pages = "--html", "report.html", "--markdown", "report.md"
    session.run("mxtrt", "report", RUN, *baseline, *pages)
    session.run("mxtrt", "gate", RUN, *baseline)


@nox.session
def baseline_update(session: nox.Session) -> None:
    """Make RUN.json the baseline of its machine: ``-- --reason "..."``."""
    session.install(".[bench]")
    session.run("mxtrt", "baseline", RUN, *session.posargs)


@nox.session
def report(session: nox.Session) -> None:
    """Write RUN.json beside its machine's baseline as report.html and report.md."""
    session.install(".[bench]")
    files = "--html", "report.html", "--markdown", "report.md"
    session.run("mxtrt", "report", RUN, *files, *session.posargs)


@nox.session
def sanitize(session: nox.Session) -> None:
    """Both C++ libraries under AddressSanitizer, UBSan and ThreadSanitizer of g++."""
    for sanitizer in "address,undefined", "thread":
        session.install(
            f"--config-settings=cmake.define.MXTRT_SANITIZE={sanitizer}",
            "--config-settings=install.strip=false",  # reports name functions
            ".[cpu,test]",
        )
        run = "tests/node/sanitizers/run.py"
        session.run("python", run, sanitizer, "-n", "2", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Style of the code, which room imports which, and the workflows for weak spots."""
    tools = "ruff", "clang-format==23.1.5", "clang-tidy==23.1.4"
    session.install(*tools, "check-jsonschema", "import-linter", "zizmor")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    sources = sorted(glob.glob("mxtrt/node/*.cc") + glob.glob("mxtrt/frontends/*.cc"))
    headers = glob.glob("mxtrt/node/*.h") + glob.glob("mxtrt/frontends/*.h")
    own = glob.glob("tests/*/*.cc") + glob.glob("tests/*/*.c") + glob.glob("fuzz/*/*.cc")
    styled = [*sources, *headers, *own]
    session.run("clang-format", "--dry-run", "--Werror", *styled)
    session.run("clang-tidy", "--quiet", *sources, "--", "-std=c++17")
    session.run("lint-imports", "--no-cache", env={"PYTHONPATH": "."})
    workflows = ".github/workflows/ci.yml", ".github/workflows/gpu.yml"
    session.run("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *workflows)
    form = ".github/ISSUE_TEMPLATE/bug.yml"
    session.run("check-jsonschema", "--builtin-schema", "vendor.github-issue-forms", form)
    session.run("zizmor", "--offline", "--quiet", *workflows)


@nox.session
def typecheck(session: nox.Session) -> None:
    """Types of the package, the fuzzer and the examples."""
    session.install("mypy", ".[bench,fuzz,serving]")
    session.run("mypy")
    session.run("mypy", "examples")
