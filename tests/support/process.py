"""Python code in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import mxtrt

ROOT = Path(mxtrt.__file__).parents[1]


def run(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a fresh process, with this mxtrt on its path.

    MXNet is a user's there: with oneDNN's subgraphs.
    """
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ}
    environment.pop("MXNET_SUBGRAPH_BACKEND", None)
    return subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(code)],
        env={**environment, "PYTHONPATH": path, **variables},
        cwd=tempfile.gettempdir(),  # not a checkout, whose mxtrt/ would shadow the installed one
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
