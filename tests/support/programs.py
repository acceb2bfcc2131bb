"""Programs in C and C++, and what programs say, see ``tests/frontends``."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import mxnet as mx
import numpy as np

MXNET = Path(mx.__file__).parent

_COMPILERS = {".c": ("gcc", "-std=c11"), ".cc": ("g++", "-std=c++17")}


def compiled(source: Path, folder: Path) -> Path:
    """A program on MXNet's C API, compiled into a folder.

    Raises:
        FileNotFoundError: This machine has no compiler for it.
    """
    compiler, standard = _COMPILERS[source.suffix]
    if shutil.which(compiler) is None:
        raise FileNotFoundError(f"this machine has no {compiler} to compile the programs with")
    made = folder / source.stem
    command = [compiler, standard, "-O1", f"-I{MXNET / 'include'}", source, "-o", made]
    command += [f"-L{MXNET}", "-lmxnet", "-lpthread", "-ldl"]
    # What MXNet's own library needs is found when the program is run.
    subprocess.run([*command, "-Wl,--unresolved-symbols=ignore-in-shared-libs"], check=True)
    return made


def told(name: str, said: str) -> int:
    """A number that a program writes to its standard error, after its name."""
    return int(said.rpartition(f"{name} ")[2].split()[0])


def runs(said: str) -> int:
    """How often engines ran."""
    return told("runs", said)


def agree(ours: np.ndarray, plain: np.ndarray) -> None:
    """Hold the numbers of a program with engines against those of plain MXNet."""
    assert ours.size == plain.size > 0
    np.testing.assert_allclose(ours, plain, rtol=1e-4, atol=1e-5)
