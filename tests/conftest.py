"""What every test shares: MXNet on today's NumPy, and options that start clean."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Plain MXNet is the reference.  Its oneDNN subgraph pass keeps fused weights when parameters
# are set again (see tests/hooks/test_executor.py), so it is off unless a test wants it.
os.environ["MXNET_SUBGRAPH_BACKEND"] = "NONE"
for variable in [name for name in os.environ if name.startswith("MXTRT_")]:
    del os.environ[variable]
# What a test sees does not depend on how fast this machine is.
os.environ["MXTRT_PREFER"] = "engine"
os.environ["MXTRT_BUILD"] = "foreground"
os.environ.pop("USE_TENSORRT", None)
os.environ.pop("MXNET_USE_TENSORRT", None)

import mxtrt

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MXNet and its dependencies, on import
    import mxnet as mx

import pytest

from mxtrt import config
from mxtrt.hooks import decision
from mxtrt.trial.check import forget


def pytest_addoption(parser: pytest.Parser) -> None:
    """What the suites in tests/bench take; the benches of a GPU are asked for."""
    parser.addoption("--gpu", action="store_true", help="run the benches of this machine's GPU")
    parser.addoption("--suite", action="append", help="a suite to run; may be repeated")
    parser.addoption("--quick", action="store_true", help="a few benchmarks of every suite")
    parser.addoption("--counters-only", action="store_true", help="measure no latencies")
    parser.addoption("--bench-seconds", type=float, default=8.0, help="seconds per benchmark")
    parser.addoption("--bench-threads", type=int, default=1, help="threads of either side")
    parser.addoption(
        "--bench-prefer",
        default="engine",
        help="option prefer of the benches; with engine the counters depend on no measurement",
    )
    parser.addoption("--bench-lanes", type=int, help="option lanes of the benches of a GPU")
    parser.addoption("--soak-seconds", type=int, default=3, help="of a program in C++")
    parser.addoption("--again", metavar="FILE", help="only the benchmarks that a file names")
    parser.addoption(
        "--engine-cache", metavar="DIR", help="keep the engines of the GPU tests there"
    )


_tables: dict[str, list[dict[str, object]]] = {}


@pytest.fixture
def table() -> Callable[..., None]:
    """Adds a row to a table that is printed after the tests, and at once with ``-s``."""

    def add(name: str, **row: object) -> None:
        print(f"{name}: {row}")
        _tables.setdefault(name, []).append(row)

    return add


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the tables."""
    for name, rows in _tables.items():
        heads = list(rows[0])
        lines = [heads, *([str(row[head]) for head in heads] for row in rows)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
        terminalreporter.section(name)
        for line in lines:
            cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
            terminalreporter.write_line("  ".join(cells).rstrip())


@pytest.fixture(autouse=True)
def clean_options(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Every test starts with the integration off, no warning given and a fixed seed."""
    config._process.clear()
    decision._warned.clear()
    mx.random.seed(7, ctx=mx.cpu())
    forget()
    with mxtrt.options(enabled=False, spill_dir=str(tmp_path_factory.getbasetemp() / "spill")):
        yield
    config._process.clear()


@pytest.fixture
def engine_cache(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A cache of engines for the GPU tests that lasts for the run, or longer if one is given."""
    given = pytestconfig.getoption("--engine-cache")
    return given or str(tmp_path_factory.getbasetemp() / "engines")


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """TensorRT engines of the binds of the test, each with its request."""
    from mxtrt.engines.tensorrt.runtime import LoadedEngine

    seen: list[Any] = []
    make = LoadedEngine.context

    def context(self: LoadedEngine, request: Any) -> Any:
        seen.append((self, request))
        return make(self, request)

    monkeypatch.setattr(LoadedEngine, "context", context)
    return seen


@pytest.fixture
def stand_in() -> str:
    """Folder of a stand-in for NVIDIA's Python package."""
    return str(Path(__file__).parent / "support" / "stand_in")
