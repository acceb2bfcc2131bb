"""TensorRT inside Apache MXNet, at bind time.

Set ``USE_TENSORRT=1`` (or call :func:`enable`) and symbols bound for inference run their
supported segments in an engine.  Importing this package is cheap: it only watches for the
import of MXNet, restores the NumPy aliases that MXNet needs, and then hooks MXNet's binds.
"""

from __future__ import annotations

import importlib

from mxtrt import _autoload
from mxtrt.version import __version__ as __version__

TYPE_CHECKING = False  # the module typing is worth more time than all of this one
if TYPE_CHECKING:
    from typing import Any

    from mxtrt.config import OPTIONS, Options, disable, enable, options
    from mxtrt.errors import (
        EngineError,
        GraphError,
        MxtrtError,
        MxtrtWarning,
        NodeError,
        OptionError,
    )
    from mxtrt.hooks.ready import ready
    from mxtrt.observe.counters import Stats, stats
    from mxtrt.observe.report import Report, last_report
    from mxtrt.offline.calibration import calibrate
    from mxtrt.offline.inspection import inspect
    from mxtrt.plan.ledger import Ledger, memory

__all__ = [
    # switching it on and off
    "enable",
    "disable",
    "options",
    "Options",
    "OPTIONS",
    # seeing what it did
    "inspect",
    "last_report",
    "ready",
    "Report",
    "memory",
    "Ledger",
    "stats",
    "Stats",
    # eight bits
    "calibrate",
    # what it raises
    "EngineError",
    "GraphError",
    "MxtrtError",
    "MxtrtWarning",
    "NodeError",
    "OptionError",
]

_HOME = {
    "mxtrt.errors": (
        "EngineError",
        "GraphError",
        "MxtrtError",
        "MxtrtWarning",
        "NodeError",
        "OptionError",
    ),
    "mxtrt.observe.counters": ("Stats", "stats"),
    "mxtrt.offline.inspection": ("inspect",),
    "mxtrt.plan.ledger": ("Ledger", "memory"),
    "mxtrt.config": ("OPTIONS", "Options", "disable", "enable", "options"),
    "mxtrt.offline.calibration": ("calibrate",),
    "mxtrt.observe.report": ("Report", "last_report"),
    "mxtrt.hooks.ready": ("ready",),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'mxtrt' has no attribute {name!r}")
    from mxtrt.system.threads import loading

    with loading:
        value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


_autoload.install()
