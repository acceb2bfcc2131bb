"""The software that an integration needs, and whether it loads."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import spawn
from pathlib import Path
from typing import TypeVar

from mxtrt.config import Options
from mxtrt.engines.cache import EngineCache
from mxtrt.engines.onnxruntime import onnxruntime, shared_library
from mxtrt.engines.tensorrt import tensorrt
from mxtrt.engines.tensorrt.api import PACKAGES, installed, load_api
from mxtrt.errors import EngineError, MxtrtError
from mxtrt.plain.loading import import_mxnet, mxnet_reason
from mxtrt.system.child import Arrays, Child, Header, serve

__all__ = [
    "Cache",
    "Part",
    "Parts",
    "attempt",
    "is_hooked",
    "look_at_cache",
    "look_at_parts",
    "main",
]

_T = TypeVar("_T")

# Seconds in which TensorRT has to load, and Python to start.
_PATIENCE = 120.0


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of software.

    Attributes:
        version: Its version, None where it does not load.
        reason: What is wrong with it, None where nothing is.
        installed: The distributions that it is of, with their versions.
        crashes: Whether a process that loads it ends.
    """

    version: str | None
    reason: str | None = None
    installed: tuple[str, ...] = ()
    crashes: bool = False


@dataclass(frozen=True, slots=True)
class Parts:
    """NumPy, MXNet and the engines.

    Attributes:
        numpy: NumPy.
        mxnet: MXNet.
        tensorrt: TensorRT; it may load and have no GPU.
        onnxruntime: ONNX Runtime.
    """

    numpy: Part
    mxnet: Part
    tensorrt: Part
    onnxruntime: Part


@dataclass(frozen=True, slots=True)
class Cache:
    """Where built TensorRT engines are kept.

    Attributes:
        path: The directory.
        size: Bytes of what it holds.
        limit: Bytes that it may hold, 0 where none are kept.
        reason: Why it cannot be written to, None where it can.
    """

    path: str
    size: int
    limit: int
    reason: str | None = None


def attempt(check: Callable[[], _T]) -> tuple[_T | None, str | None]:
    """What a check returns and None, or None and the sentence of what it raised."""
    try:
        return check(), None
    except MxtrtError as error:
        return None, str(error)
    except Exception as error:
        return None, f"{type(error).__name__}: {mxnet_reason(error)}"


def look_at_parts(options: Options) -> Parts:
    """Load what the integration needs.

    Args:
        options: The options in force.
    """

    def part(package: str, version: Callable[[], str]) -> Part:
        return Part(*attempt(version), _installed(package))

    numpy = Part(*attempt(lambda: str(importlib.import_module("numpy").__version__)))
    mxnet = part("mxnet", lambda: str(import_mxnet().__version__))
    loads = mxnet.version is not None
    return Parts(
        numpy,
        mxnet,
        _tensorrt(loads),
        part("onnxruntime", lambda: _onnxruntime_version(options, loads)),
    )


def _installed(package: str) -> tuple[str, ...]:
    """The distributions that a package is of, with their versions; none where nothing tells."""
    return attempt(lambda: tuple(_distributions(package)))[0] or ()


def _distributions(package: str) -> Iterator[str]:
    spec = importlib.util.find_spec(package)
    folders = {Path(place).resolve() for place in (spec and spec.submodule_search_locations) or ()}
    for name in sorted(set(importlib.metadata.packages_distributions().get(package, ()))):
        found = importlib.metadata.distribution(name)
        if Path(str(found.locate_file(package))).resolve() in folders:  # not one that it hides
            yield f"{found.name} {found.version}"


def _tensorrt(mxnet_loads: bool) -> Part:
    """TensorRT, loaded in a process of its own first, which it may take along."""
    package = installed()
    if package is None:
        return Part(*attempt(lambda: load_api(PACKAGES[0]).version))  # says how to install it
    names = _installed(package)
    told, crash = attempt(lambda: _ask_child(package))
    if told is None:
        gone = " ".join(name.split()[0] for name in names) or package
        reason = f"{crash}; pip uninstall {gone}, or set MXTRT_ENGINE=onnxruntime"
        return Part(None, reason, names, crashes=True)
    version, why = told["version"], told["reason"]
    if version is not None and mxnet_loads:
        _, why = attempt(tensorrt)  # whether it has a GPU
    return Part(version, why, names)


def _ask_child(package: str) -> Header:
    """Version of TensorRT, or why it does not load.

    Raises:
        EngineError: The process in which it was loaded ended.
    """
    child = Child(__name__, f"the process that loaded {package}")
    try:
        return child.ask({"package": package}, {}, _PATIENCE)[0]
    finally:
        child.close()


def main() -> None:
    """What the process does in which TensorRT is loaded."""

    def answer(header: Header, _: Arrays) -> tuple[Header, Arrays]:
        version, reason = attempt(lambda: load_api(header["package"]).version)
        return {"version": version, "reason": reason}, {}

    serve(answer)


def _onnxruntime_version(options: Options, mxnet_loads: bool) -> str:
    shared_library()  # is missed where MXNet is missing too
    if not mxnet_loads:
        raise EngineError("not tried, because MXNet does not load")
    return onnxruntime(options).version


def look_at_cache(options: Options) -> Cache:
    """The cache of engines; nothing is created.

    Raises:
        OSError: The directory cannot be looked at.
    """
    cache = EngineCache(options.cache_dir, options.cache_size)
    there = next(path for path in (cache.path, *cache.path.parents) if path.exists())
    reason = None
    if there == cache.path and there.is_dir():
        _, reason = attempt(cache.prepare)
    if not there.is_dir():
        reason = f"{there} is no directory; give another cache_dir (MXTRT_CACHE_DIR)"
    if not reason and not os.access(there, os.W_OK, effective_ids=True):
        reason = f"{there} cannot be written to; give a cache_dir of yours (MXTRT_CACHE_DIR)"
    size = 0
    for entry in cache.path.glob("*"):
        with contextlib.suppress(FileNotFoundError):  # another process has removed it meanwhile
            size += entry.stat().st_size
    return Cache(str(cache.path), size, options.cache_size, reason)


def is_hooked() -> bool:
    """Whether a Python that starts has the integration without importing it.

    Raises:
        OSError: No Python starts.
        subprocess.SubprocessError: It says nothing.
    """
    asked = "import sys; print('mxtrt._autoload' in sys.modules)"
    command = [spawn.get_executable() or "", "-c", asked]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=True)
    return done.stdout.split()[-1:] == ["True"]  # behind what others print at the start
