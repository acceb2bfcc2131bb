"""Makes ``import mxnet`` work on today's NumPy, then hooks MXNet's binds.

``mxtrt.pth`` imports this package at the start of every Python of the environment, so that
an unchanged script is served.  Hence nothing here costs anything until MXNet is imported.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.machinery import PathFinder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

__all__ = ["install", "restore_numpy_aliases"]

# Names that NumPy 1.24 removed and MXNet 1.9 uses.
_ALIASES = {"bool": bool, "int": int, "float": float, "object": object, "str": str}


def restore_numpy_aliases() -> None:
    """Give NumPy back the aliases of built-in types (``np.bool``) that MXNet 1.9 needs."""
    import numpy

    for name, value in _ALIASES.items():
        if name not in numpy.__dict__:
            setattr(numpy, name, value)


class _Loader:
    """Runs MXNet's own loader, with what it needs before and the hooks after."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        from mxtrt.system.libraries import supplied

        restore_numpy_aliases()
        supplied(lambda: self._loader.exec_module(module), "MXNet")
        from mxtrt import hooks

        hooks.install(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


class _Finder:
    """Finds ``mxnet`` as Python would and wraps its loader."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "mxnet":
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)  # type: ignore[assignment]
        return spec


def install() -> None:
    """Watch for the import of MXNet; hook it at once where it is imported already."""
    if "mxnet" in sys.modules:
        from mxtrt import hooks

        hooks.install(import_module("mxnet"))  # another thread may be in the middle of it
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
