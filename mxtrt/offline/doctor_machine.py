"""What a machine has for GPUs: NVIDIA's driver, GPUs, CUDA's libraries, code in MXNet's wheel."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import mmap
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mxtrt.errors import NodeError
from mxtrt.node.abi import Functions
from mxtrt.node.cuda import Cuda, CudaDevice
from mxtrt.node.library import PATH, library
from mxtrt.system.libraries import CUDA, DRIVER, loaded, remedy, supplied

__all__ = [
    "CudaLibrary",
    "GpuCode",
    "cuda_libraries",
    "driver_version",
    "gpu_code",
    "gpus",
    "mxnet_library",
]

_KERNEL_MODULE = Path("/proc/driver/nvidia/version")

# A fatbin is what nvcc makes of a source file's kernels: magic, version 1, size of this header and
# of what follows, which is an entry for every architecture: kind, version, size of its header, size
# of its code, and the architecture further on.
_HEAD, _ENTRY, _ARCHITECTURE = struct.Struct("<IHHQ"), struct.Struct("<HHIQ"), struct.Struct("<I")
_MAGIC = struct.pack("<IHH", 0xBA55ED50, 1, _HEAD.size)
_ARCHITECTURE_AT = 28
_PTX, _CUBIN = 1, 2
# They lie in one section, one behind the other: where none follows so soon there is none.
_GAP = 1 << 16


@dataclass(frozen=True, slots=True)
class GpuCode:
    """The GPUs that a library has code for; none in a library for the CPU.

    Attributes:
        cubins: Architectures of machine code, such as 86 for sm_86.
        ptx: Architectures of code that the driver compiles for any later GPU.
    """

    cubins: tuple[int, ...] = ()
    ptx: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.cubins or self.ptx)

    def __str__(self) -> str:
        names = [*(f"sm_{a}" for a in self.cubins), *(f"compute_{a} (PTX)" for a in self.ptx)]
        return ", ".join(names)

    def serves(self, capability: tuple[int, int]) -> bool:
        """Whether a GPU of a compute capability can run it."""
        major, minor = capability
        return any(divmod(a, 10) <= (major, minor) for a in self.ptx) or any(
            a // 10 == major and a % 10 <= minor for a in self.cubins
        )


@dataclass(frozen=True, slots=True)
class CudaLibrary:
    """One of CUDA's libraries.

    Attributes:
        name: What it is linked by.
        path: Where it is, None where it is missing.
        loaded: Whether MXNet or TensorRT has loaded it.
        remedy: How to get one that is missing.
    """

    name: str
    path: str | None
    loaded: bool = False
    remedy: str | None = None


def driver_version() -> str | None:
    """The version of NVIDIA's driver, or of the CUDA that it brings; None without a driver."""
    with contextlib.suppress(OSError):
        found = re.search(r"Kernel Module.*?\s(\d+(?:\.\d+)+)", _KERNEL_MODULE.read_text())
        if found is not None:
            return found[1]
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError:
        return None
    version = ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(version))
    return f"of CUDA {version.value // 1000}.{version.value % 1000 // 10}"


def gpus(mxnet_loads: bool) -> list[CudaDevice | str]:
    """Every GPU, or why it does not open: it may be full, or another process's alone.

    Raises:
        NodeError: There is no driver, or no GPU.
    """
    # Where MXNet does not load the engine node still is a library that can ask the driver.
    cuda = library().cuda if mxnet_loads else Cuda(Functions(ctypes.CDLL(str(PATH))))
    count = cuda.count()
    if not count:
        raise NodeError("the driver knows no GPU")
    return [_opened(cuda, ordinal) for ordinal in range(count)]


def _opened(cuda: Cuda, ordinal: int) -> CudaDevice | str:
    try:
        return cuda.device(ordinal)
    except NodeError as error:
        return str(error)


def mxnet_library() -> Path | None:
    """MXNet's shared library, whether or not it loads; None where there is none."""
    spec = importlib.util.find_spec("mxnet")
    for folder in spec.submodule_search_locations or () if spec is not None else ():
        path = Path(folder) / "libmxnet.so"
        if path.exists():
            return path
    return None


def gpu_code(path: Path) -> GpuCode:
    """The GPUs that a shared library has code for.

    Raises:
        OSError: It cannot be read.
    """
    found: dict[int, set[int]] = {_PTX: set(), _CUBIN: set()}
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for kind, architecture in _entries(data):
            found.setdefault(kind, set()).add(architecture)
    return GpuCode(tuple(sorted(found[_CUBIN])), tuple(sorted(found[_PTX])))


def _entries(data: mmap.mmap) -> Iterator[tuple[int, int]]:
    """Kind and architecture of every entry of every fatbin."""
    at = data.find(_MAGIC)
    while at >= 0:
        end = at + _HEAD.size + _HEAD.unpack_from(data, at)[3]
        at += _HEAD.size
        while at + _ARCHITECTURE_AT < min(end, len(data) - _ARCHITECTURE.size):
            kind, _, header, size = _ENTRY.unpack_from(data, at)
            yield kind, _ARCHITECTURE.unpack_from(data, at + _ARCHITECTURE_AT)[0]
            at += max(header + size, _ENTRY.size)
        at = data.find(_MAGIC, end, end + _GAP)


def cuda_libraries() -> list[CudaLibrary]:
    """CUDA's libraries, those that nothing has loaded yet where they would be loaded from."""
    before = loaded()
    return [_look_up(name, before) for name in CUDA]


def _look_up(name: str, before: dict[str, Path]) -> CudaLibrary:
    path = _of_the_same_name(name, before)
    if path is not None:
        return CudaLibrary(name, str(path), loaded=True)
    try:
        supplied(functools.partial(ctypes.CDLL, name), name)
    except ImportError:
        return CudaLibrary(name, None, remedy=remedy(name))
    except OSError as error:  # it is there, and is none
        return CudaLibrary(name, None, remedy=str(error))
    path = _of_the_same_name(name, loaded())
    return CudaLibrary(name, str(path or name))


def _of_the_same_name(name: str, paths: dict[str, Path]) -> Path | None:
    """A library's file: ``libcublas.so.11`` may be a link to ``libcublas.so.11.11.3.6``."""
    stem = re.match(r".*?\.so\.\d+", name)
    assert stem is not None
    same = (n for n in sorted(paths) if f"{n}.".startswith(f"{stem[0]}."))
    return next((paths[n] for n in same), None)
