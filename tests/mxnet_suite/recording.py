"""A pytest plugin for MXNet's own tests: a line per event in a file, so that a crash loses nothing.

The environment says what to do: ``SUITE_LOG`` is the file that lines of JSON are added to,
``SUITE_SEED`` what every test is seeded with, and ``SUITE_PLAIN`` takes the hooks out of MXNet,
which then is plain whatever ``USE_TENSORRT`` says, and ``SUITE_INFERENCE`` is for more tests that
bind for inference (see :mod:`inference`).  Tests that the file has a line of are left out.
Pretrained networks get random weights, so that nothing is downloaded and all tests of them run.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import mxtrt
from mxtrt import _autoload

LOG = Path(os.environ["SUITE_LOG"])
SEED = int(os.environ["SUITE_SEED"])
PLAIN = bool(os.environ.get("SUITE_PLAIN"))

if PLAIN:
    _autoload.restore_numpy_aliases()
    sys.meta_path[:] = [f for f in sys.meta_path if not isinstance(f, _autoload._Finder)]

import mxnet as mx  # before a checkout puts its own, without libmxnet.so, on the path
import numpy as np
from mxnet.gluon.model_zoo import model_store, vision


def _random_weights(name: str, root: str = "") -> str:
    """In place of ``get_model_file``: the path of parameters that nobody trained."""
    path = Path(f"{name}.params").resolve()
    if not path.exists():
        mx.random.seed(SEED)
        network = vision.get_model(name)
        network.initialize(mx.init.Xavier())
        size = 299 if name.startswith("inception") else 224
        network(mx.nd.zeros((1, 3, size, size)))
        network.save_parameters(str(path))
        mx.random.seed(SEED)
    return str(path)


model_store.get_model_file = _random_weights
if os.environ.get("SUITE_INFERENCE"):
    import inference

    inference.install()


def _tell(**event: object) -> None:
    with LOG.open("a") as file:
        file.write(json.dumps(event) + "\n")


def _counted() -> Counter[str]:
    return Counter({} if PLAIN else dataclasses.asdict(mxtrt.stats()))


class _Outcome:
    """What the reports of one test amount to; the first that did not pass decides."""

    def __init__(self) -> None:
        self.name, self.text, self.seconds = "passed", "", 0.0

    def add(self, report: pytest.TestReport) -> None:
        self.seconds += report.duration
        if self.name == "passed" and not report.passed:
            self.name, self.text = report.outcome, _text(report.longrepr)


def _text(longrepr: Any) -> str:
    """The message of a failure, or where none is known its last line."""
    crash = getattr(longrepr, "reprcrash", None)
    if crash is not None:
        return str(crash.message).strip()
    if isinstance(longrepr, tuple):
        return str(longrepr[2])
    return str(longrepr).strip().rpartition("\n")[2]


_outcomes: dict[str, _Outcome] = {}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what is in the file already, and say what there is."""
    lines = LOG.read_text().splitlines() if LOG.exists() else []
    done = {json.loads(line).get("begun") for line in lines}
    items[:] = [item for item in items if item.nodeid not in done]
    _tell(collected=[item.nodeid for item in items])


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """A file that can not be collected counts as a test that failed."""
    if report.failed:
        _tell(begun=report.nodeid)
        _tell(test=report.nodeid, outcome="failed", text=_text(report.longrepr))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Any:
    """Tell when a test begins and how it ended."""
    outcome = _outcomes[item.nodeid] = _Outcome()
    _tell(begun=item.nodeid)
    before = _counted()
    random.seed(SEED)
    np.random.seed(SEED)
    mx.random.seed(SEED)
    try:
        return (yield)
    finally:
        # What a test left pending is its own doing, an error or a crash included.
        try:
            mx.nd.waitall()
        except mx.MXNetError as error:
            if outcome.name == "passed":
                outcome.name, outcome.text = "failed", f"waitall: {error}"
        _tell(
            test=item.nodeid,
            outcome=outcome.name,
            text=outcome.text[:2000],
            seconds=round(outcome.seconds, 3),
            did=dict(_counted() - before),
        )


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep what setup, call and teardown came to."""
    _outcomes[report.nodeid].add(report)


def pytest_warning_recorded(warning_message: warnings.WarningMessage, nodeid: str) -> None:
    """Keep what the integration warned of."""
    if issubclass(warning_message.category, mxtrt.MxtrtWarning) and nodeid in _outcomes:
        _tell(test=nodeid, warned=str(warning_message.message))
