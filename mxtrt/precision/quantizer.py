"""ONNX Runtime's quantizer and calibrators, without what they do to the whole process.

Importing them configures the program's root logger and adds folders to ``sys.path``.  When they
run they log advice to the root logger, and print.
"""

from __future__ import annotations

import builtins
import contextlib
import importlib
import logging
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from mxtrt.system.threads import once

__all__ = ["quantization", "quiet"]

_PACKAGE = "onnxruntime.quantization"
_TELLS = ("debug", "info", "warning", "error", "basicConfig")


class _Thread(threading.local):
    quiet = False


_thread = _Thread()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """A block in which the package says nothing to this thread."""
    before, _thread.quiet = _thread.quiet, True
    try:
        yield
    finally:
        _thread.quiet = before


@once
def quantization() -> ModuleType:
    """The package, imported at the first call."""
    basic_config, path = logging.basicConfig, sys.path.copy()

    def others(**options: Any) -> None:
        if not _thread.quiet:
            basic_config(**options)

    logging.basicConfig = others
    try:
        with quiet():
            package = importlib.import_module(_PACKAGE)
    finally:
        logging.basicConfig = basic_config
    assert package.__file__ is not None
    own = str(Path(package.__file__).parents[1])
    for folder in [one for one in sys.path if one.startswith(own) and one not in path]:
        sys.path.remove(folder)
    for name, module in sys.modules.copy().items():
        if name.split(".")[:2] == _PACKAGE.split("."):
            vars(module).update(print=_print)
            if vars(module).get("logging") is logging:
                vars(module).update(logging=_Logging())
    return package


class _Logging:
    """The module ``logging`` as the package sees it."""

    def __getattr__(self, name: str) -> Any:
        return _nothing if _thread.quiet and name in _TELLS else getattr(logging, name)


def _print(*values: Any, **options: Any) -> None:
    if not _thread.quiet:
        builtins.print(*values, **options)


def _nothing(*_: Any, **__: Any) -> None:
    pass
