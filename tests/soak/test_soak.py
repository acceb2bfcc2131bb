"""The soak in small; ``nox -s soak -- --seconds 600`` is the large one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.process import ROOT


@pytest.mark.parametrize("seconds", [3, pytest.param(60, marks=pytest.mark.slow)])
def test_every_reply_under_mixed_load_is_right(tmp_path, seconds):
    """Nothing is left over or left to MXNet, no engine failed, no reply stayed away."""
    file = tmp_path / "soak.json"
    script = Path(__file__).with_name("soak.py")
    environment = {name: value for name, value in os.environ.items() if name != "MXTRT_BUILD"}
    command = [sys.executable, "-W", "ignore", str(script)]
    done = subprocess.run(
        [*command, "--seconds", str(seconds), "--json", str(file)],
        env={**environment, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    found = json.loads(file.read_text())
    assert found["requests"] > 20 * seconds
    assert (found["wrong"], found["errors"], found["stats"]["engine_failures"]) == (0, 0, 0)
    assert found["refusals"] == []
    assert sum(count for name, count in found.items() if name.startswith("odd requests"))
