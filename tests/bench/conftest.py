"""The suites' command line, the run's file, and the fixture that counts and measures."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mxnet as mx
import pytest
from bench.harness import MORE_SUITES, SUITES, Bench, Settings, passed_over

from mxtrt import config as options
from mxtrt.perf.machine import environment
from mxtrt.perf.runs import EXTRA
from mxtrt.plan.graph_pass import prepare


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Every suite is slow; a suite that is not asked for is not run."""
    asked = config.getoption("--suite") or SUITES
    for item in items:
        suite = item.path.stem.removeprefix("test_suite_")
        if item.path.parent == Path(__file__).parent and suite in SUITES + MORE_SUITES:
            item.add_marker(pytest.mark.slow)
            if suite not in asked:
                item.add_marker(pytest.mark.skip(reason=f"--suite has no {suite}"))


def pytest_benchmark_update_machine_info(
    config: pytest.Config, machine_info: dict[str, Any]
) -> None:
    """The environment and the baseline's key, into the run's file."""
    if any("bench" in str(argument) for argument in config.args):
        machine_info[EXTRA] = _environment(Settings.of(config))


def pytest_benchmark_update_json(
    config: pytest.Config, benchmarks: object, output_json: dict[str, Any]
) -> None:
    """What the run was not asked for, into its file."""
    suites = sorted(config.getoption("--suite") or SUITES)
    output_json[EXTRA] = {"suites": suites, "passed_over": sorted(passed_over)}


def _environment(settings: Settings) -> dict[str, Any]:
    engine = prepare(options.current().replace(**settings.options))
    gpu = None
    if settings.gpu:
        from mxtrt.node import library

        gpu = library().cuda.device().name
    return {
        **environment(engine, gpu),
        "context": str(settings.context),
        "threads": None if settings.gpu else settings.threads,
    }


@pytest.fixture
def settings(pytestconfig: pytest.Config) -> Settings:
    """The settings of this run."""
    return Settings.of(pytestconfig)


@pytest.fixture
def bench(benchmark: Any, settings: Settings, table: Callable[..., None]) -> Iterator[Bench]:
    """Counts and measures a benchmark."""
    yield Bench(benchmark, settings, table)
    gc.collect()
    mx.nd.waitall()
