"""Shared libraries that MXNet and TensorRT link, from wherever this machine has them.

NVIDIA's Python packages have CUDA's libraries in folders that the system's loader does not search.
But a library that is loaded already is found by its name: so what is missing is loaded from there,
what it links itself first.  A machine's own libraries come before.
"""

from __future__ import annotations

import ctypes
import functools
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

__all__ = ["CUDA", "DRIVER", "loaded", "packaged", "remedy", "supplied"]

_T = TypeVar("_T")

#: NVIDIA's Python packages by the library in them: what MXNet for CUDA 11 and TensorRT 8.5 link.
CUDA = {
    "libcudart.so.11.0": "nvidia-cuda-runtime-cu11",
    "libcublas.so.11": "nvidia-cublas-cu11",
    "libcublasLt.so.11": "nvidia-cublas-cu11",
    "libcudnn.so.8": "nvidia-cudnn-cu11==8.6.0.163",
    "libcufft.so.10": "nvidia-cufft-cu11",
    "libcurand.so.10": "nvidia-curand-cu11",
    "libcusolver.so.11": "nvidia-cusolver-cu11",
    "libcusparse.so.11": "nvidia-cusparse-cu11",
    "libnccl.so.2": "nvidia-nccl-cu11",
    "libnvrtc.so.11.2": "nvidia-cuda-nvrtc-cu11",
    "libnvToolsExt.so.1": "nvidia-nvtx-cu11",
}

#: What NVIDIA's driver is called by.
DRIVER = "libcuda.so.1"

# Debian's packages by the library in them.
_DEBIAN = {
    "libgomp.so.1": "libgomp1",
    "libquadmath.so.0": "libquadmath0",
    "libz.so.1": "zlib1g",
}


def supplied(load: Callable[[], _T], who: str) -> _T:
    """What a call returns that loads a library, which finds NVIDIA's Python packages too.

    Args:
        load: The call; it is repeated for every library that it misses and a package has.
        who: What it loads, for the message.

    Raises:
        ImportError: A library is missing; the message says what it comes with.
    """
    tried: set[str] = set()
    while True:
        try:
            return load()
        except (ImportError, OSError) as error:
            name = _missing(error)
            if name is None or name in tried:
                raise
            tried.add(name)
            path = packaged(name)
            if path is None:
                raise ImportError(
                    f"{who} needs the library {name}, which this machine lacks; {remedy(name)}"
                ) from error
            supplied(functools.partial(ctypes.CDLL, str(path)), name)


def packaged(name: str) -> Path | None:
    """Where NVIDIA's Python packages have a library, None where they do not."""
    # Not where Python finds the package: some have an __init__.py, which hides those elsewhere.
    for folder in sys.path:
        if isinstance(folder, str):
            for path in sorted(Path(folder, "nvidia").glob(f"*/lib/{name}")):
                return path
    return None


def remedy(name: str) -> str:
    """How to get a library."""
    if name == DRIVER:
        return (
            "it belongs to NVIDIA's driver: install that, or MXNet for the CPU "
            "(pip uninstall mxnet-cu117; pip install 'mxtrt[cpu]')"
        )
    if name in _DEBIAN:
        return f"install it (Debian and Ubuntu: apt-get install {_DEBIAN[name]})"
    if name in CUDA:
        return f"install it with: pip install '{CUDA[name]}' (pip install 'mxtrt[gpu]' has all)"
    return "install what it belongs to, or put its folder on LD_LIBRARY_PATH"


def loaded() -> dict[str, Path]:
    """The shared libraries of this process by file name."""
    paths = {}
    with open("/proc/self/maps") as maps:
        for line in maps:
            fields = line.rstrip("\n").split(maxsplit=5)
            if len(fields) == 6 and ".so" in fields[5] and fields[5].startswith("/"):
                paths[Path(fields[5]).name] = Path(fields[5])
    return paths


def _missing(error: Exception) -> str | None:
    """The library that the system's loader did not find, None where an error says otherwise."""
    # The rest is in the user's language; of a library that is there it begins with the path.
    name, separator, _ = str(error).partition(": ")
    return name if separator and re.fullmatch(r"[^/\s]+\.so(\.\d+)*", name) else None
