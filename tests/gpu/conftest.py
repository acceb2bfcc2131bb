"""What the GPU tests need, or one sentence why they are skipped."""

from __future__ import annotations

import fcntl
import tempfile
from collections.abc import Iterator
from pathlib import Path

import mxnet as mx
import pytest

import mxtrt
from mxtrt.engines.tensorrt import tensorrt
from mxtrt.errors import MxtrtError


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that run alone are the last: a worker that waits for its turn runs nothing else."""
    items.sort(key=lambda item: item.get_closest_marker("alone") is not None)


class _AtOnce:
    """Tells of a failure at once: these tests take long, and a machine may go before the end."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called for every phase of every test."""
        terminal = self._config.pluginmanager.get_plugin("terminalreporter")
        if report.failed and terminal is not None:
            terminal.ensure_newline()
            terminal.write_line(f"{report.nodeid}\n{report.longreprtext}")


def pytest_configure(config: pytest.Config) -> None:
    """Have failures told where the tests are started."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_AtOnce(config))


@pytest.fixture(autouse=True)
def gpu(engine_cache: str) -> Iterator[None]:
    """TensorRT on a GPU."""
    try:
        tensorrt()
    except MxtrtError as reason:
        pytest.skip(str(reason))
    with mxtrt.options(enabled=False, engine="tensorrt", cache_dir=engine_cache):
        yield


@pytest.fixture(autouse=True)
def turn(request: pytest.FixtureRequest, gpu: None) -> Iterator[None]:
    """Tests that fill or measure the GPU's memory (``alone``) run while no other process's do."""
    alone = request.node.get_closest_marker("alone") is not None
    with (Path(tempfile.gettempdir()) / "mxtrt-gpu-tests.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield


@pytest.fixture
def device() -> mx.context.Context:
    """``mx.gpu()``."""
    if not mx.context.num_gpus():
        pytest.skip("this MXNet has no GPU code; install mxnet-cu117 1.9.1 for mx.gpu()")
    return mx.gpu()
