"""Partitioned symbols as files, which plain MXNet reads too.

A partitioned symbol has given up the weights that its engines hold, and engines cannot be moved.
So the file has the symbol that it was made from, as MXNet writes it, with one more attribute of
the graph, which MXNet passes over: how to partition it again, and the hash of its sidecar.  The
sidecar is a file of MXNet's NDArrays next to it, with the weights.

Nothing in these files is code or becomes a path.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mxtrt.errors import GraphError, OptionError
from mxtrt.graph.symbol import (
    MOST_CHARACTERS,
    TensorType,
    check_json,
    read_json,
    write_json,
)
from mxtrt.plain.dtypes import DTYPES
from mxtrt.saved.params_file import LONGEST_NAME, MOST_ARRAYS, MOST_AXES, read_params, write_params
from mxtrt.system.files import companion, new_file, remove_companions, write_text

if TYPE_CHECKING:
    from mxtrt.config import Options
    from mxtrt.engines import Weight

__all__ = ["Saved", "load", "marked", "save", "sidecar_of"]

Arrays = dict[str, "np.ndarray[Any, Any]"]

_FORMAT = 1
_MARK = "mxtrt_saved"
_SIDECAR = ".params"
#: The options that make a difference to what is computed; the others are the machine's.
_OPTIONS = (
    "precision",
    "batch_profile",
    "shapes",
    "min_nodes",
    "verify",
    "deny_ops",
    "allow_ops",
)
_TYPES = {str(dtype): dtype for dtype in DTYPES.values()}
#: Most bytes of all arguments together that nothing depends on, such as labels.
_MOST_UNREAD = 1 << 30


@dataclass(frozen=True, slots=True)
class Saved:
    """A symbol to be partitioned.

    Attributes:
        symbol: The symbol, as MXNet's JSON.
        inputs: Types of its arguments that are no weights, as far as they are known.
        unread: Those of them that no value depends on, such as labels: the partitioned symbol
            does not have them.
        left: Names of the nodes that MXNet ran and that read arguments: with them in an engine
            the partitioned symbol would have other arguments.
        options: Options of the bind by name.
        ranges: What the file said that the option ``ranges`` names; empty without it.
        gpu: The GPU that it ran on, None for host memory.
        made_by: Versions of mxtrt and its engine, for people.
        weights: SHA-256 of the sidecar.
    """

    symbol: str
    inputs: Mapping[str, TensorType]
    unread: tuple[str, ...]
    left: tuple[str, ...]
    options: Mapping[str, Any]
    ranges: str = ""
    gpu: int | None = None
    made_by: str = ""
    weights: str = field(default="", compare=False)

    @classmethod
    def options_of(cls, options: Options) -> dict[str, Any]:
        """What is kept of the options of a bind."""
        return {name: getattr(options, name) for name in _OPTIONS}

    def to_json(self) -> str:
        """The symbol with its mark."""
        mark = {
            "format": _FORMAT,
            "weights": self.weights,
            "inputs": {
                name: [str(tensor.dtype), list(tensor.shape or ())]
                for name, tensor in self.inputs.items()
                if tensor.known
            },
            "unread": self.unread,
            "left": self.left,
            "options": self.options,
            "ranges": self.ranges,
            "gpu": self.gpu,
            "made_by": self.made_by,
        }
        data = read_json(self.symbol)
        data.setdefault("attrs", {})[_MARK] = ["str", json.dumps(mark)]
        return write_json(data)

    @classmethod
    def from_json(cls, text: str) -> Saved | None:
        """Read what :meth:`to_json` wrote; None for a symbol without a mark.

        Raises:
            GraphError: The mark is damaged; the message names no file.
        """
        if _MARK not in text:
            return None
        try:
            check_json(text)
            data = read_json(text)
            attrs = data.get("attrs")
            if not isinstance(attrs, dict) or _MARK not in attrs:
                return None
            kind, mark = attrs.pop(_MARK)
            if kind != "str" or not isinstance(mark, str):
                raise TypeError("it is no text")
            check_json(mark)
            return _read_mark(write_json(data), json.loads(mark))
        except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
            reason = error if isinstance(error, GraphError) else f"{type(error).__name__}: {error}"
            raise GraphError(f"its attribute {_MARK} is damaged ({reason})") from None


def _read_mark(symbol: str, mark: Any) -> Saved:
    if mark["format"] != _FORMAT:
        raise GraphError(f"it has format {mark['format']!r}, expected {_FORMAT}; update mxtrt")
    if not re.fullmatch("[0-9a-f]{64}", mark["weights"]):
        raise GraphError("it names its weights otherwise than by a SHA-256")
    for part in ("inputs", "unread", "left", "options"):
        if len(mark[part]) > MOST_ARRAYS:
            raise GraphError(f"it has {len(mark[part])} {part}")
    inputs = {_name(name): _tensor(*pair) for name, pair in mark["inputs"].items()}
    unread = tuple(_name(name) for name in mark["unread"])
    left = tuple(_name(name) for name in mark["left"])
    if sum(inputs[name].nbytes for name in unread) > _MOST_UNREAD:
        raise GraphError("it has too large arguments that nothing depends on")
    options = {str(name): mark["options"][name] for name in mark["options"]}
    if not options.keys() <= set(_OPTIONS):
        raise GraphError(f"it sets options other than {', '.join(_OPTIONS)}")
    _check_options(options)
    ranges, made_by, gpu = mark["ranges"], mark["made_by"], mark["gpu"]
    if not isinstance(ranges, str) or not isinstance(made_by, str):
        raise TypeError("ranges and made_by are texts")
    if gpu is not None and (type(gpu) is not int or not 0 <= gpu < 1024):
        raise GraphError(f"it is for GPU {gpu!r}")
    return Saved(symbol, inputs, unread, left, options, ranges, gpu, made_by[:200], mark["weights"])


def _check_options(options: Mapping[str, Any]) -> None:
    from mxtrt.config import Options

    try:
        Options().replace(**options)
    except OptionError as error:
        raise GraphError(str(error)) from None


def _name(name: Any) -> str:
    if not isinstance(name, str) or len(name.encode()) > LONGEST_NAME:
        raise TypeError("a name is no text, or too long")
    return name


def _tensor(dtype: str, shape: list[int]) -> TensorType:
    if len(shape) > MOST_AXES or any(type(d) is not int or not 0 <= d < 1 << 31 for d in shape):
        raise GraphError(f"it has an input of shape {str(shape)[:100]}")
    return TensorType(tuple(shape), _TYPES[dtype])


def sidecar_of(path: Path, digest: str) -> Path:
    """The file with the weights of a symbol file."""
    return companion(path, digest, _SIDECAR)


def marked(path: str | Path) -> str | None:
    """The text of a symbol file if it is one of a partitioned symbol, else None."""
    try:
        with open(path, "rb") as file:
            data = file.read(4 * MOST_CHARACTERS + 1)
    except (OSError, ValueError):
        return None  # MXNet's to read or to refuse: it may be an address such as s3://
    if _MARK.encode() not in data:
        return None
    return data.decode(errors="replace")


def load(path: Path, saved: Saved) -> Arrays:
    """The weights of a symbol file.

    Args:
        path: The symbol file.
        saved: What it says.

    Raises:
        GraphError: They are missing, damaged, or those of another symbol.
    """
    sidecar = sidecar_of(path, saved.weights)
    try:
        data = sidecar.read_bytes()
    except FileNotFoundError:
        raise GraphError(
            f"the symbol file {path} was saved after it was partitioned, and the weights of its "
            f"engines are expected in {sidecar}, which does not exist; copy it there from where "
            "the symbol was saved"
        ) from None
    except OSError as error:
        raise GraphError(f"the weights {sidecar} cannot be read ({error.strerror})") from None
    try:
        return unpack(data, saved)
    except GraphError as error:
        raise GraphError(
            f"the weights {sidecar} cannot be used: {error}; copy the file again from where the "
            "symbol was saved"
        ) from None


def unpack(data: bytes, saved: Saved) -> Arrays:
    """The weights of a symbol, from what the sidecar holds.

    Raises:
        GraphError: They are damaged, or those of another symbol; the message names no file.
    """
    digest = hashlib.sha256(data).hexdigest()
    if digest != saved.weights:
        raise GraphError(
            f"they have the SHA-256 {digest[:16]}..., expected {saved.weights[:16]}..., because "
            "they are damaged or belong to another symbol"
        )
    named = read_params(data)
    arrays = {name.removeprefix("arg:").removeprefix("aux:"): a for name, a in named.items()}
    if len(arrays) != len(named):
        raise GraphError("they have one name as argument and as auxiliary state")
    return arrays


def save(path: Path, saved: Saved, weights: Mapping[str, Callable[[], Weight]]) -> None:
    """Write a symbol and its sidecar; older files of these names are whole until then.

    Args:
        path: The symbol file.
        saved: The symbol; its hash of the weights is computed here.
        weights: What returns a weight, by its name in the sidecar.

    Raises:
        OSError: A file cannot be written.
    """
    path = path.resolve()  # a link stays one
    digest = hashlib.sha256()
    with new_file(path.parent) as file:

        def write(piece: Any) -> None:
            file.stream.write(piece)
            digest.update(piece)

        write_params(write, weights)
        sidecar = sidecar_of(path, digest.hexdigest())
        file.publish(sidecar)
    write_text(path, dataclasses.replace(saved, weights=digest.hexdigest()).to_json())
    remove_companions(path, _SIDECAR, [sidecar])
