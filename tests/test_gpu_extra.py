"""The extra gpu on a bare machine: its wheels have all that MXNet and TensorRT link.

They are 3 GB, which pip takes from its cache, or from where ``PIP_FIND_LINKS`` says.
"""

from __future__ import annotations

import re
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

from mxtrt.system import libraries

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # which comes with pytest

pytestmark = pytest.mark.slow

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
PYTHON = "3.10"  # the last that TensorRT 8.5 has wheels for
PLATFORMS = "manylinux1", "manylinux2010", "manylinux2014", "manylinux_2_17", "manylinux_2_28"
#: What ships no library of its own and is linked by everybody: the C and C++ runtimes.
RUNTIME = re.compile(r"(ld-linux-x86-64|lib(c|m|dl|rt|pthread|gcc_s|stdc\+\+))\.so\.\d+")
#: What mxtrt loads.
ROOTS = "libmxnet.so", "libnvinfer.so.8", "libnvinfer_plugin.so.8", "libnvonnxparser.so.8"


@dataclass(frozen=True)
class Library:
    """A shared library in a wheel."""

    wheel: Path
    path: str

    @property
    def package(self) -> str:
        """Name of its package."""
        return parse_wheel_filename(self.wheel.name)[0]

    @property
    def needed(self) -> list[str]:
        """The libraries that it links."""
        with zipfile.ZipFile(self.wheel) as wheel, wheel.open(self.path) as file:
            return _needed(file)


def _needed(file: IO[bytes]) -> list[str]:
    """The names under ``DT_NEEDED`` of a 64-bit ELF file."""

    def at(place: int, size: int) -> bytes:
        file.seek(place)
        return file.read(size)

    header = at(0, 64)
    assert header[:6] == b"\x7fELF\x02\x01"
    (programs,) = struct.unpack_from("<Q", header, 32)
    size, count = struct.unpack_from("<HH", header, 54)
    table = at(programs, size * count)
    segments = [struct.unpack_from("<IIQQQQ", table, size * place) for place in range(count)]
    (dynamic,) = [at(start, length) for kind, _, start, _, _, length in segments if kind == 2]
    entries = list(struct.iter_unpack("<QQ", dynamic))
    entries = entries[: entries.index((0, 0))]
    tags = dict(entries)
    (names,) = [  # DT_STRTAB is an address, in a segment that is loaded
        at(start + tags[5] - address, tags[10])
        for kind, _, start, address, _, length in segments
        if kind == 1 and address <= tags[5] < address + length
    ]
    return [names[v : names.index(b"\0", v)].decode() for tag, v in entries if tag == 1]


def _requirements(extra: str) -> list[Requirement]:
    """The project's own and an extra's, on that Python."""
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"][extra]]
    environment = {"python_version": PYTHON, "python_full_version": f"{PYTHON}.0"}
    found = [Requirement(line) for line in lines]
    found = [one for one in found if one.marker is None or one.marker.evaluate(environment)]
    for one in found:
        one.marker = None  # pip would ask it of the Python that runs it
    return found


@pytest.fixture(scope="module")
def wheels() -> Iterator[list[Path]]:
    """What ``pip install 'mxtrt[gpu]'`` takes on Python 3.10, by the requirements of all."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pip", "download", "--quiet", "--dest", folder),
                *("--only-binary=:all:", "--python-version", PYTHON, "--implementation", "cp"),
                *(f"--platform={platform}_x86_64" for platform in (*PLATFORMS, "linux")),
                *map(str, _requirements("gpu")),
            ],
            capture_output=True,
            text=True,
            timeout=3600,
            check=False,
        )
        if "(from versions: none)" in done.stderr or "No module named pip" in done.stderr:
            pytest.skip(f"pip does not reach the packages: {done.stderr.splitlines()[-1]}")
        assert done.returncode == 0, done.stderr
        yield sorted(Path(folder).glob("*.whl"))


@pytest.fixture(scope="module")
def shipped(wheels: list[Path]) -> dict[str, Library]:
    """The shared libraries in the wheels by file name."""
    found = {}
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as file:
            for path in file.namelist():
                if re.search(r"\.so(\.|$)", path):
                    found[Path(path).name] = Library(wheel, path)
    return found


@pytest.fixture(scope="module")
def linked(shipped: dict[str, Library]) -> dict[str, str]:
    """All that is linked, directly or not, by what mxtrt loads; each with one that links it."""
    by = dict.fromkeys(ROOTS, "mxtrt")
    waiting = list(ROOTS)
    while waiting:
        name = waiting.pop()
        for needed in shipped[name].needed if name in shipped else ():
            if needed not in by:
                by[needed] = name
                waiting.append(needed)
    return by


def test_all_that_mxnet_and_tensorrt_link_is_in_the_wheels_or_named(
    shipped: dict[str, Library], linked: dict[str, str]
) -> None:
    """Else it is the C runtime, the driver, or a library that the message has a remedy for."""
    assert set(ROOTS) <= set(shipped)
    assert "libcudnn.so.8" in set(linked) & set(shipped)
    known = {*shipped, libraries.DRIVER}
    missing = {
        name: by
        for name, by in linked.items()
        if name not in known
        and not RUNTIME.fullmatch(name)
        and "apt-get install" not in libraries.remedy(name)
    }
    assert not missing


def test_the_message_names_the_package_that_has_the_library(
    shipped: dict[str, Library], linked: dict[str, str]
) -> None:
    """With the version that pyproject.toml pins; of every CUDA library that is linked."""
    cuda = {n for n in linked if n in shipped and shipped[n].package.startswith("nvidia-")}
    assert cuda <= set(libraries.CUDA)
    pinned = {canonicalize_name(one.name): one for one in _requirements("gpu")}
    for name, package in libraries.CUDA.items():
        named, library = Requirement(package), shipped[name]
        version = parse_wheel_filename(library.wheel.name)[1]
        assert library.package == canonicalize_name(named.name), name
        assert str(pinned[library.package].specifier) == f"=={version}", name
        assert version in named.specifier, name
