"""Models as files: symbol JSON, parameter files, shapes as text.

Every file is looked at in Python before MXNet reads it, so that a wrong one is named in one
sentence.  MXNet upgrades symbols that MXNet 0.8 to 1.8 wrote.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mxtrt.errors import GraphError, OptionError
from mxtrt.graph.symbol import Graph, check_json, read_json
from mxtrt.node.abi import OPERATOR
from mxtrt.plain.loading import import_mxnet, mxnet_reason
from mxtrt.saved.params_file import MAGIC, check_params

__all__ = [
    "load_params",
    "load_symbol",
    "parse_shape",
]

_PARAMS_MAGIC = MAGIC.to_bytes(8, "little")


def _read(path: Path, kind: str, fix: str) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise GraphError(f"the {kind} {path} does not exist; {fix}") from None
    except IsADirectoryError:
        raise GraphError(f"the {kind} {path} is a directory; {fix}") from None
    except OSError as error:
        raise GraphError(f"the {kind} {path} cannot be read ({error.strerror}); {fix}") from None
    if not data:
        raise GraphError(f"the {kind} {path} is empty; {fix}")
    return data


def load_symbol(path: str | Path) -> Any:
    """Read a symbol file.

    Args:
        path: What ``HybridBlock.export``, ``Module.save_checkpoint`` or ``Symbol.save`` wrote.

    Raises:
        GraphError: The file cannot be read, is not a symbol, or has operators that this MXNet
            does not know.
        NodeError: MXNet is missing or is another than 1.9.
    """
    path = Path(path)
    save = "give the -symbol.json file that MXNet's export or save wrote"
    data = _read(path, "symbol file", save)
    try:
        text = data.decode()
        check_json(text)
        read_json(text)
    except UnicodeDecodeError:
        raise GraphError(f"the symbol file {path} is not text; {save}") from None
    except GraphError as error:
        raise GraphError(f"the symbol file {path} is not JSON to read: {error}; {save}") from None
    except (json.JSONDecodeError, RecursionError) as error:
        place = getattr(error, "pos", 0)
        cut = place >= len(text.rstrip()) or "Unterminated" in str(error)
        wrong = "is cut off" if cut and text.lstrip()[:1] == "{" else "is not JSON"
        raise GraphError(f"the symbol file {path} {wrong} ({error}); {save}") from None
    mx = import_mxnet()
    try:
        graph = Graph.from_json(text)
        if any(node.op == OPERATOR for node in graph.nodes):
            raise GraphError("mxtrt partitioned it; give the symbol that it was partitioned from")
        symbol = mx.sym.load_json(text)
        _check_entries(graph, symbol)
    except GraphError as error:
        raise GraphError(f"the symbol file {path} cannot be used: {error}") from None
    except (mx.MXNetError, UnicodeDecodeError) as error:
        raise GraphError(f"the symbol file {path} {_refusal(error)}") from None
    return symbol


def _refusal(error: Exception) -> str:
    unknown = re.search(r"Operator (\S+) is not registered", str(error))
    if unknown is None:
        return f"is refused by MXNet: {mxnet_reason(error)}"
    node = re.search(r"Failed loading Op (\S+) of type", str(error))
    where = f" (node {node[1]!r})" if node else ""
    return (
        f"has the operator {unknown[1]!r}{where}, which MXNet 1.9.1 does not know; "
        "export the model with MXNet 1.9.1's operators"
    )


def _check_entries(graph: Graph, symbol: Any) -> None:
    """See that only outputs that exist are read: MXNet would crash on others."""
    for head in graph.heads:
        if head.output < 0:
            raise GraphError(f"its heads name output {head.output} of a node; save it again")
    internals = symbol.get_internals()
    loaded = Graph.of(internals)
    count = Counter(head.node for head in loaded.heads)
    heads = Graph.of(symbol).heads
    for entry in (*(entry for node in loaded.nodes for entry in node.inputs), *heads):
        if not 0 <= entry.output < count[entry.node]:
            name = loaded.nodes[entry.node].name
            raise GraphError(
                f"it reads output {entry.output} of node {name!r}, "
                f"which has {count[entry.node]}; save it again with MXNet"
            )


def load_params(path: str | Path) -> dict[str, Any]:
    """Read a parameter file; ``arg:`` and ``aux:`` are taken off the names.

    Raises:
        GraphError: The file cannot be read or is not one of named NDArrays.
        NodeError: MXNet is missing or is another than 1.9.
    """
    path = Path(path)
    save = "give the .params file that MXNet's export or save_checkpoint wrote"
    data = _read(path, "params file", save)
    if data[:8] != _PARAMS_MAGIC:
        raise GraphError(f"the params file {path} is not a file of MXNet's NDArrays; {save}")
    try:
        check_params(data)
    except GraphError as error:
        raise GraphError(f"the params file {path} cannot be read: {error}; {save}") from None
    del data
    mx = import_mxnet()
    try:
        arrays: Mapping[str, Any] | list[Any] = mx.nd.load(str(path))
    except (mx.MXNetError, UnicodeDecodeError) as error:
        reason = mxnet_reason(error)
        if reason == "Invalid NDArray file format":
            reason = "it is cut off or damaged"
        raise GraphError(f"the params file {path} cannot be read: {reason}; {save}") from None
    if not isinstance(arrays, Mapping):
        raise GraphError(f"the params file {path} has arrays without names; {save}")
    return {name.removeprefix("arg:").removeprefix("aux:"): a for name, a in arrays.items()}


def parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """Read ``name:1,3,224,224``.

    Raises:
        OptionError: The text is not of this form, or a dimension is not positive.
    """
    name, colon, dims = text.rpartition(":")
    fields = dims.replace("x", ",").split(",")
    if not colon or not name or not all(re.fullmatch(r"\s*0*[1-9]\d*\s*", f) for f in fields):
        raise OptionError(
            f"option --shape is {text!r}, expected the name of an argument and positive "
            "dimensions, such as data:1,3,224,224"
        )
    return name, tuple(int(field) for field in fields)
