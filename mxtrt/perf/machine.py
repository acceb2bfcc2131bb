"""Which baseline a machine is held to, and what else to know of it."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

from mxtrt.engines import Engine
from mxtrt.version import __version__

__all__ = ["environment", "machine_key"]


def machine_key(engine: str, gpu: str | None = None) -> str:
    """Name of the baseline's folder: kind of the processor, engine and version of MXNet.

    Args:
        engine: Name of the engine.
        gpu: Name of the GPU that it runs on, None for the CPU.
    """
    import mxnet as mx

    return "_".join(_slug(part) for part in (gpu or _cpu(), engine, f"mxnet-{mx.__version__}"))


def environment(engine: Engine, gpu: str | None = None) -> dict[str, Any]:
    """What a person has to know of a machine to judge figures; only ``key`` chooses a baseline.

    Args:
        engine: The engine.
        gpu: Name of the GPU that it runs on, None for the CPU.
    """
    import mxnet as mx
    import numpy as np

    return {
        "key": machine_key(engine.name, gpu),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "gpu": _gpu() if gpu else None,
        "engine": f"{engine.name} {engine.version}",
        "mxnet": mx.__version__,
        "mxtrt": __version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
    }


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")


def _cpu() -> str:
    """Kind of the CPU: name, family and model, since virtual machines shorten the name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return platform.machine()
    facts = {name.strip(): value.strip() for name, _, value in (ln.partition(":") for ln in lines)}
    name = re.sub(r"\((R|TM)\)|CPU|Processor|@.*", "", facts.get("model name", "")).strip()
    kind = [facts[key] for key in ("cpu family", "model") if key in facts]
    return " ".join([name or platform.machine(), *kind])


def _gpu() -> dict[str, str]:
    """Driver and clocks, which are recorded and choose no baseline."""
    fields = ("name", "driver_version", "clocks.sm", "clocks.mem", "power.limit")
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    values = done.stdout.splitlines()[0].split(",")
    return {name: value.strip() for name, value in zip(fields, values, strict=False)}
