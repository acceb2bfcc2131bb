"""Requests whose shapes change, in a fresh process each: how many are late, and why."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.process import ROOT

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("kind", "number"), [("texts", 500), ("pictures", 300)])
def test_requests_of_changing_shapes(kind: str, number: int, table: Callable[..., None]) -> None:
    """Two builds at the most, no shape left to MXNet, all answers right."""
    script = Path(__file__).with_name("changing_shapes.py")
    hidden = "MXTRT_BUILD", "MXTRT_PREFER", "MXNET_SUBGRAPH_BACKEND"  # of the tests, not of users
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run(
        [sys.executable, str(script), kind, str(number)],
        env={**environment, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    table("requests of changing shapes", kind=kind, **found)
    assert found["builds"] <= 2
    assert found["left to MXNet"] == 0
    assert found["largest error"] < 1e-4
