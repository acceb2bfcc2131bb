"""Data for a command: what ``--data`` names, in batches."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mxtrt.errors import GraphError, OptionError

__all__ = ["HELP", "batches", "shapes_of"]

HELP = (
    "Data: NAME.npz (arrays by data argument, and 'label'), NAME.npy, NAME.rec (pictures), or "
    "python:MODULE:FUNCTION, which returns batches."
)


def batches(text: str, batch: int, shapes: list[str]) -> Iterator[dict[str, Any]]:
    """The batches that ``--data`` names; labels are under ``label``.

    Args:
        text: What the command line says.
        batch: Samples per batch, where the data do not say.
        shapes: Shapes as the command line gives them; a record file needs that of its pictures.

    Raises:
        OptionError: It is no known kind of data.
        GraphError: The data cannot be read.
    """
    kind = Path(text).suffix.lower()
    if text.startswith("python:"):
        yield from _of_function(text)
    elif kind in (".npz", ".npy"):
        yield from _of_arrays(Path(text), batch)
    elif kind == ".rec":
        yield from _of_records(Path(text), batch, shapes)
    else:
        raise OptionError(
            f"option --data is {text!r}, expected NAME.npz, NAME.npy, NAME.rec or "
            "python:MODULE:FUNCTION"
        )


def shapes_of(batch: dict[str, Any]) -> list[str]:
    """The shapes of a batch as the command line gives them."""
    return [
        f"{name}:{','.join(map(str, array.shape))}"
        for name, array in batch.items()
        if name != "label"
    ]


def _of_arrays(path: Path, batch: int) -> Iterator[dict[str, Any]]:
    import mxnet as mx

    try:
        loaded = np.load(path)
    except (OSError, ValueError) as error:
        raise GraphError(f"the data {path} cannot be read: {error}") from None
    arrays = {name: loaded[name] for name in loaded} if path.suffix == ".npz" else {"data": loaded}
    counts = {len(array) for array in arrays.values()}
    if len(counts) != 1:
        raise GraphError(f"the arrays in {path} have different numbers of samples: {counts}")
    (count,) = counts
    for begin in range(0, count, batch):
        yield {name: mx.nd.array(array[begin : begin + batch]) for name, array in arrays.items()}


def _of_records(path: Path, batch: int, shapes: list[str]) -> Iterator[dict[str, Any]]:
    import mxnet as mx

    from mxtrt.saved.models import parse_shape

    if len(shapes) != 1:
        raise OptionError("a record file needs the shape of its pictures; give it with --shape")
    name, shape = parse_shape(shapes[0])
    if not path.exists():
        raise GraphError(f"the data {path} cannot be read: there is no such file")
    records = mx.io.ImageRecordIter(
        path_imgrec=str(path), data_shape=shape[1:], batch_size=batch, round_batch=False
    )
    for item in records:
        keep = batch - (item.pad or 0)
        yield {name: item.data[0][:keep], "label": item.label[0][:keep]}


def _of_function(text: str) -> Iterator[dict[str, Any]]:
    import mxnet as mx

    _, _, place = text.partition(":")
    module, _, function = place.partition(":")
    if not module or not function:
        raise OptionError(f"option --data is {text!r}, expected python:MODULE:FUNCTION")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        made = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise OptionError(f"option --data names {place}, which cannot be imported: {error}") from (
            None
        )
    for item in made():
        if isinstance(item, dict):
            values = item
        elif hasattr(item, "data") and isinstance(item.data, list):
            values = {"data": item.data[0]} | ({"label": item.label[0]} if item.label else {})
        elif isinstance(item, (tuple, list)):
            values = dict(zip(("data", "label"), item, strict=False))
        else:
            values = {"data": item}
        yield {
            name: value if isinstance(value, mx.nd.NDArray) else mx.nd.array(value)
            for name, value in values.items()
        }
