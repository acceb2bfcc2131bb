"""The corpus: minimal reproducers that every test run replays.

A reproducer is a folder ``<signature>-<sha8>`` with ``case.json`` (the case, its signature, and
why it is open if it is), ``inputs.npz`` (the values of its variables, so that it does not depend
on how random numbers are made) and ``repro.py``, which runs it alone.  Nothing is pickled.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mxtrt.graph.symbol import check_json
from mxtrt_fuzz.graphs import Case
from mxtrt_fuzz.signatures import Failure
from mxtrt_fuzz.values import INPUT_SETS, Array, input_arrays, weight_arrays

__all__ = ["Reproducer", "read", "reproducers", "write"]

_REPRO = '''\
"""Reproduces {name}: {detail}"""

from pathlib import Path

from mxtrt_fuzz.corpus import read
from mxtrt_fuzz.replay import replay

for failure in replay(read(Path(__file__).parent)):
    print(failure)
'''


@dataclass(frozen=True, slots=True)
class Reproducer:
    """A folder of the corpus.

    Attributes:
        path: The folder.
        case: The case.
        arrays: Values of its variables; data of input set ``i`` are named ``NAME@i``.
        signature: What it failed with when it was found.
        detail: One sentence.
        open: Why it still fails; empty for a bug that is fixed.
    """

    path: Path
    case: Case
    arrays: dict[str, Array]
    signature: str
    detail: str
    open: str = ""


def write(folder: Path, case: Case, failure: Failure, reason: str = "") -> Path:
    """Write a reproducer; one that is there already is left as it is.

    Args:
        folder: The corpus.
        case: The case, reduced.
        failure: How it fails.
        reason: Why it stays open, if it does.

    Returns:
        Its folder.
    """
    name = f"{failure.signature}-{case.digest}"
    target = folder / name
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    arrays = dict(weight_arrays(case))
    for turn in range(INPUT_SETS):
        arrays |= {f"{n}@{turn}": array for n, array in input_arrays(case, turn).items()}
    told = {"signature": str(failure.signature), "detail": failure.detail, "open": reason}
    made = Path(tempfile.mkdtemp(prefix=".writing-", dir=folder))
    try:
        text = json.dumps({**told, "case": case.to_dict()}, indent=1)
        (made / "case.json").write_text(text + "\n")
        np.savez_compressed(made / "inputs.npz", **arrays)
        detail = failure.detail.replace('"', "'").replace("\\", "/")
        (made / "repro.py").write_text(_REPRO.format(name=name, detail=detail))
        os.chmod(made, 0o755)
        os.replace(made, target)
    except OSError:
        shutil.rmtree(made, ignore_errors=True)
        raise
    return target


def read(folder: Path) -> Reproducer:
    """Read a reproducer, or a bare ``case.json``.

    Args:
        folder: The reproducer's folder, or a file of a case.

    Raises:
        ValueError: It is no reproducer; the message names the file.
    """
    path = folder / "case.json" if folder.is_dir() else folder
    try:
        text = path.read_text()
        check_json(text)
        data = json.loads(text)
        case = Case.from_dict(data.get("case", data))
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is not a case ({error}); give what mxtrt fuzz wrote") from None
    arrays: dict[str, Array] = {}
    if folder.is_dir() and (folder / "inputs.npz").exists():
        try:
            with np.load(folder / "inputs.npz", allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise ValueError(f"{folder / 'inputs.npz'} cannot be read ({error})") from None
    told = [str(data.get(key, "")) for key in ("signature", "detail", "open")]
    return Reproducer(folder, case, arrays, *told)


def reproducers(folder: Path) -> Iterator[Reproducer]:
    """Every reproducer of a corpus, by name."""
    for path in sorted(folder.glob("*/case.json")):
        yield read(path.parent)
