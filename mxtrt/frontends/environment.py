"""What a program in another language is started with, so that its binds get engines."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import platformdirs

from mxtrt.errors import NodeError, OptionError
from mxtrt.system.libraries import CUDA, packaged

__all__ = ["environment_for"]


def environment_for(mxnet: Path | None = None, *, preload: bool = False) -> dict[str, str]:
    """The environment variables, by name.

    Args:
        mxnet: MXNet's ``libmxnet.so``, or the folder that has it; by default that of this
            environment.
        preload: For programs that are linked with MXNet by a path of their own (an RPATH).

    Raises:
        NodeError: This Python has no shared library, or mxtrt none for other languages.
        OptionError: There is no MXNet.
    """
    front = _front(_real(mxnet))
    return {
        "USE_TENSORRT": "1",
        "LD_LIBRARY_PATH": _before("LD_LIBRARY_PATH", front.parent, *_cuda_folders()),
        **({"LD_PRELOAD": _before("LD_PRELOAD", front)} if preload else {}),
        "MXNET_LIBRARY_PATH": str(front),
        "MXTRT_PYTHON": sys.executable,
        "MXTRT_LIBPYTHON": str(_python_library()),
    }


def _before(name: str, *paths: Path) -> str:
    """A variable with these paths before those that it has."""
    return ":".join(filter(None, (*map(str, paths), os.environ.get(name))))


def _cuda_folders() -> list[Path]:
    """Folders of NVIDIA's Python packages with what MXNet links and this machine lacks.

    In a Python program mxtrt loads these before MXNet; nobody does so for another one.
    """
    given = filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(":"))
    own = {path.name for folder in given for path in Path(folder).glob("*.so*")}
    with contextlib.suppress(OSError):  # no ldconfig
        command = ["/sbin/ldconfig", "-p"]
        known = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        own |= {line.split()[0] for line in known.splitlines()[1:] if line.strip()}
    found = (packaged(name) for name in CUDA if name not in own)
    return list(dict.fromkeys(path.parent for path in found if path is not None))


def _python_library() -> Path:
    name = sysconfig.get_config_var("INSTSONAME") or ""
    # Where it was built for, and where it is if it was moved since.
    folders = (sysconfig.get_config_var("LIBDIR") or "", Path(sys.base_prefix, "lib"))
    if sysconfig.get_config_var("Py_ENABLE_SHARED"):
        for path in (Path(folder, name) for folder in folders):
            if path.is_file():
                return path
    raise NodeError(
        f"the Python {sys.executable} has no shared library, which programs in other languages "
        "need; make the environment with a Python that has one (Debian's, or configured with "
        "--enable-shared)"
    )


def _real(given: Path | None) -> Path | None:
    """MXNet's own library; None for that of the package beside mxtrt."""
    if given is None:
        return None
    path = given / "libmxnet.so" if given.is_dir() else given
    if not path.is_file():
        raise OptionError(f"there is no MXNet library {path}; give the path of a libmxnet.so")
    return path.resolve()


def _own() -> Path:
    spec = importlib.util.find_spec("mxtrt.frontends")
    folders = [] if spec is None else [Path(f) for f in spec.submodule_search_locations or ()]
    found = next((f / "libmxnet.so" for f in folders if (f / "libmxnet.so").exists()), None)
    if found is None:
        raise NodeError(
            "mxtrt was installed without its libmxnet.so; install it from a wheel, or from source "
            "with a C++17 compiler"
        )
    return found


def _front(real: Path | None) -> Path:
    """Our library, which finds MXNet's own in the folder ``mxnet`` beside the one of mxtrt."""
    own = _own()
    beside = own.parents[2] / "mxnet" / "libmxnet.so"
    if real is None:
        if beside.exists():
            return own
        spec = importlib.util.find_spec("mxnet")
        folders = [] if spec is None else [*(spec.submodule_search_locations or ())]
        if not folders:
            raise OptionError("there is no MXNet in this environment; install mxnet 1.9.1")
        real = Path(folders[0], "libmxnet.so").resolve()
    elif beside.exists() and real.samefile(beside):
        return own
    return _laid_out(own, real)


def _laid_out(own: Path, real: Path) -> Path:
    """A copy of our library that finds MXNet's elsewhere."""
    content = hashlib.sha256(own.read_bytes() + os.fsencode(real)).hexdigest()[:16]
    cache = Path(platformdirs.user_cache_dir("mxtrt"), "frontends")
    copy = cache / content / "mxtrt" / "frontends" / own.name
    if not copy.exists():
        try:
            cache.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OptionError(
                f"a copy of mxtrt's library for {real} needs the folder {cache}, and {error}; give "
                "another one by XDG_CACHE_HOME"
            ) from error
        with tempfile.TemporaryDirectory(dir=cache) as made:  # whole, or not there
            folder = Path(made, content)
            (folder / "mxtrt" / "frontends").mkdir(parents=True)
            (folder / "mxnet").symlink_to(real.parent, target_is_directory=True)
            shutil.copy2(own, folder / "mxtrt" / "frontends" / own.name)
            with contextlib.suppress(OSError):  # another process was quicker
                folder.rename(cache / content)
    return copy
