"""The symbol graph: MXNet's symbol JSON as nodes, entries and heads, with shapes and dtypes.

MXNet writes a symbol as a list of nodes in topological order.  A node with
``op == "null"`` is a variable (data, weight or auxiliary state).  An entry is one
output of one node.  The graph passes of MXNet's extension interface add the
attributes ``__ext_shape__`` and ``__ext_dtype__`` (lists, one item per output).
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, NamedTuple

import numpy as np

from mxtrt.errors import EngineError, GraphError
from mxtrt.plain.dtypes import DTYPES
from mxtrt.system.background import breathe

__all__ = [
    "Entry",
    "Graph",
    "Inference",
    "Node",
    "Shapes",
    "TensorType",
    "check_json",
    "decoding",
    "inferred",
    "read_json",
    "text_of",
    "untaken",
    "with_shapes",
    "write_json",
]

#: Limits of a symbol, far beyond any network: its characters, the depth of its JSON, which MXNet
#: reads recursively, its nodes, and the inputs of a node or heads of the symbol, for which somebody
#: allocates memory.
MOST_CHARACTERS, DEEPEST, MOST_NODES, MOST_ENTRIES = 1 << 28, 64, 1_000_000, 100_000

# A symbol without a version is taken for one of MXNet 0.8 and "upgraded" on loading.
_VERSION = ["int", 10901]

_SHAPE, _DTYPE = "__ext_shape__", "__ext_dtype__"

#: The shapes of all inputs of a part of a graph, or of all its outputs.
Shapes = tuple[tuple[int, ...], ...]


class Entry(NamedTuple):
    """One output of one node: the index of the node and the index of its output."""

    node: int
    output: int = 0


@dataclass(frozen=True, slots=True)
class TensorType:
    """Shape and dtype of one entry; a dimension of -1 is unknown, as is ``shape=None``."""

    shape: tuple[int, ...] | None
    dtype: np.dtype[Any] | None

    @property
    def known(self) -> bool:
        """Whether the dtype and every dimension are known."""
        return self.shape is not None and self.dtype is not None and min(self.shape, default=0) >= 0

    @property
    def nbytes(self) -> int:
        """Size in bytes, -1 where it is not known."""
        if self.shape is None or self.dtype is None or min(self.shape, default=0) < 0:
            return -1
        return prod(self.shape) * self.dtype.itemsize

    def __str__(self) -> str:
        dims = "?" if self.shape is None else "x".join(map(str, self.shape))
        return f"{self.dtype or '?'}[{dims}]"


@dataclass(frozen=True, slots=True)
class Node:
    """One node of a symbol.

    Attributes:
        op: MXNet operator name, ``"null"`` for a variable.
        name: Unique name.
        attrs: Operator attributes as MXNet stores them, all strings.
        inputs: Entries that the node reads, in the operator's order.
        types: Shape and dtype of every output, empty when not inferred.
        raw: The node's JSON object as it was read, for what mxtrt leaves alone.
    """

    op: str
    name: str
    attrs: Mapping[str, str]
    inputs: tuple[Entry, ...]
    types: tuple[TensorType, ...] = ()
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def is_variable(self) -> bool:
        """Whether this node is a variable: data, a weight or an auxiliary state."""
        return self.op == "null"


class Graph:
    """A symbol as nodes in topological order, and its heads.

    Attributes:
        nodes: Every node; each reads only nodes before it.
        heads: The entries that the symbol returns, in order, duplicates included.
        attrs: The symbol's own attributes (MXNet's version among them).
    """

    def __init__(
        self, nodes: Sequence[Node], heads: Sequence[Entry], attrs: Mapping[str, Any] | None = None
    ) -> None:
        self.nodes = tuple(nodes)
        self.heads = tuple(heads)
        self.attrs = {"mxnet_version": _VERSION, **(attrs or {})}
        for index, node in enumerate(self.nodes):
            if any(not 0 <= entry.node < index for entry in node.inputs):
                raise GraphError(
                    f"node {node.name!r} reads a node that is not before it, "
                    "expected a symbol in topological order; save it again with MXNet"
                )
        if any(not 0 <= head.node < len(self.nodes) for head in self.heads) or not self.heads:
            raise GraphError("the symbol's heads name no node; save it again with MXNet")

    @classmethod
    def from_json(cls, text: str) -> Graph:
        """Read MXNet's symbol JSON (the format that MXNet 1.x writes), wherever it is from.

        Raises:
            GraphError: The text is not a symbol.
        """
        check_json(text)
        return cls.from_mxnet(text)

    @classmethod
    def from_mxnet(cls, text: str) -> Graph:
        """Read JSON that MXNet wrote in this process, of any depth.

        Raises:
            GraphError: The text is not a symbol.
        """
        try:
            data = read_json(text)
            if len(data["nodes"]) > MOST_NODES or len(data["heads"]) > MOST_ENTRIES:
                raise GraphError(
                    f"the symbol has {len(data['nodes'])} nodes and {len(data['heads'])} heads, "
                    f"expected {MOST_NODES} and {MOST_ENTRIES} at the most"
                )
            nodes = [_read_node(item) for item in data["nodes"]]
            heads = [_read_entry(head) for head in data["heads"]]
            attrs = dict(data.get("attrs") or {})
        except GraphError:
            raise
        except (
            ValueError,
            RecursionError,
            KeyError,
            TypeError,
            IndexError,
            AttributeError,
        ) as error:
            raise GraphError(
                f"not an MXNet symbol ({type(error).__name__}: {error}), "
                "expected JSON with 'nodes' and 'heads' as Symbol.save writes it"
            ) from error
        return cls(nodes, heads, attrs)

    @classmethod
    def of(cls, symbol: Any) -> Graph:
        """Read a symbol.

        Raises:
            GraphError: A name or an attribute in it is no text.
        """
        return cls.from_mxnet(text_of(symbol))

    def to_json(self) -> str:
        """Write MXNet's symbol JSON; inferred shapes and dtypes are left out."""
        items: list[dict[str, Any]] = []
        for node in self.nodes:
            item: dict[str, Any] = {"op": node.op, "name": node.name}
            attrs = {k: v for k, v in node.attrs.items() if k not in (_SHAPE, _DTYPE)}
            if attrs:
                item["attrs"] = attrs
            item["inputs"] = [[entry.node, entry.output, 0] for entry in node.inputs]
            if node.raw.get("subgraphs"):
                item["subgraphs"] = node.raw["subgraphs"]
            items.append(item)
        return write_json(
            {
                "nodes": items,
                "arg_nodes": [i for i, node in enumerate(self.nodes) if node.is_variable],
                "heads": [[head.node, head.output, 0] for head in self.heads],
                "attrs": self.attrs,
            }
        )

    @functools.cached_property
    def variables(self) -> frozenset[str]:
        """Names of the variables."""
        return frozenset(node.name for node in self.nodes if node.is_variable)

    @functools.cached_property
    def labels(self) -> tuple[str, ...]:
        """For every node a name such that the names made of it for its outputs are unique.

        It is the node's own name, except for operators that share theirs and for operators whose
        output is called like a variable.  MXNet allows both.
        """
        counts = Counter(node.name for node in self.nodes if not node.is_variable)
        outputs = {name.rpartition("_output")[0] for name in self.variables}
        taken = {*counts, *outputs}
        labels = []
        for index, node in enumerate(self.nodes):
            label = node.name
            if not node.is_variable and (counts[label] > 1 or label in outputs):
                label = untaken(f"{label}__{index}", taken)
                taken.add(label)
            labels.append(label)
        return tuple(labels)

    def value_name(self, entry: Entry) -> str:
        """The name of an entry, which no other entry has."""
        label = self.labels[entry.node]
        return label if self.nodes[entry.node].is_variable else f"{label}_output{entry.output}"

    def entry_called(self, name: str) -> Entry:
        """The output of an operator that :meth:`value_name` gives this name."""
        label, _, output = name.rpartition("_output")
        places = (i for i, node in enumerate(self.nodes) if not node.is_variable)
        return Entry(next(i for i in places if self.labels[i] == label), int(output))

    def type_of(self, entry: Entry) -> TensorType:
        """Shape and dtype of an entry, unknown where MXNet inferred none."""
        types = self.nodes[entry.node].types
        return types[entry.output] if entry.output < len(types) else TensorType(None, None)

    def dtypes_of(self, node: Node) -> list[np.dtype[Any]]:
        """Dtypes of a node's inputs and outputs as far as MXNet inferred them."""
        tensors = (*(self.type_of(entry) for entry in node.inputs), *node.types)
        return [tensor.dtype for tensor in tensors if tensor.dtype is not None]

    def consumers(self) -> list[list[int]]:
        """For every node, the indices of the nodes that read it, ascending, without repeats."""
        readers: list[list[int]] = [[] for _ in self.nodes]
        for index, node in enumerate(self.nodes):
            for producer in {entry.node for entry in node.inputs}:
                readers[producer].append(index)
        return readers

    def subgraph(self, members: Iterable[int], heads: Sequence[Entry]) -> tuple[Graph, list[Entry]]:
        """Cut out some nodes as a graph of their own.

        Every entry that the members read from outside becomes a variable, called as
        :meth:`value_name` says.

        Args:
            members: Indices of the nodes to keep.
            heads: Entries of members that the new graph returns.

        Returns:
            The new graph, and the outside entries in the order of its variables.

        Raises:
            GraphError: Two variables that they read have one name.
        """
        nodes: list[Node] = []
        place: dict[Entry, Entry] = {}
        outside: list[Entry] = []
        inside = sorted(members)
        chosen = set(inside)
        for index in inside:
            for entry in self.nodes[index].inputs:
                if entry.node not in chosen and entry not in place:
                    name = self.value_name(entry)
                    place[entry] = Entry(len(nodes))
                    outside.append(entry)
                    types = (self.type_of(entry),)
                    nodes.append(Node("null", name, {}, (), types))
        if len({node.name for node in nodes}) < len(nodes):
            (name, _), *_ = Counter(node.name for node in nodes).most_common(1)
            raise GraphError(f"two variables are called {name!r}, expected one; rename the other")
        for index in inside:
            node = self.nodes[index]
            inputs = tuple(
                place[e] if e in place else Entry(place[Entry(e.node)].node, e.output)
                for e in node.inputs
            )
            place[Entry(index)] = Entry(len(nodes))
            nodes.append(Node(node.op, node.name, node.attrs, inputs, node.types, node.raw))
        new_heads = [Entry(place[Entry(head.node)].node, head.output) for head in heads]
        return Graph(nodes, new_heads, self.attrs), outside


def _read_node(item: Mapping[str, Any]) -> Node:
    attrs = dict(item.get("attrs") or item.get("attr") or item.get("param") or {})
    if not all(isinstance(value, str) for value in attrs.values()):
        raise TypeError(f"an attribute of node {item['name']!r} is not text")
    if len(item["inputs"]) > MOST_ENTRIES:
        raise ValueError(f"node {item['name']!r} has {len(item['inputs'])} inputs")
    inputs = tuple(_read_entry(entry) for entry in item["inputs"])
    shapes = _lists(attrs.get(_SHAPE, ""))
    dtypes = _lists(attrs.get(_DTYPE, ""))
    types = tuple(
        TensorType(None if shape is None else tuple(shape), DTYPES.get(flag))
        for shape, flag in zip(shapes, dtypes, strict=False)
    )
    return Node(str(item["op"]), str(item["name"]), attrs, inputs, types, item)


def _read_entry(item: Sequence[Any]) -> Entry:
    if not isinstance(item, list) or not 1 <= len(item) <= 3:
        raise TypeError(f"{item!r} names no output of a node")
    if any(type(number) is not int or not 0 <= number < 1 << 31 for number in item):
        node, output = (*item, 0)[:2]
        raise ValueError(f"it reads output {output!r} of node {node!r}, which is none")
    return Entry(*item[:2])


@contextlib.contextmanager
def decoding() -> Iterator[None]:
    """A block that decodes MXNet's JSON.

    Raises:
        GraphError: A name or an attribute in it is no text.
    """
    try:
        yield
    except UnicodeDecodeError as error:
        raise GraphError(
            f"a name or an attribute of the symbol is not UTF-8 ({error.reason}); rename it"
        ) from None


def untaken(name: str, *taken: Container[str]) -> str:
    """A name with underscores behind it until none of the containers has it."""
    while any(name in names for names in taken):
        name += "_"
    return name


def text_of(symbol: Any) -> str:
    """The JSON of a symbol, complete: ``Symbol.tojson`` on its own leaves ``amp_cast`` out.

    Raises:
        GraphError: A name or an attribute in it is no text.
    """
    with decoding():
        text: str = symbol.tojson(remove_amp_cast=False)
    return text


def read_json(text: str) -> Any:
    """Read JSON as MXNet writes it: with control characters as they are.

    Raises:
        ValueError: It is no JSON.
    """
    return json.loads(text, strict=False)


def write_json(data: Any) -> str:
    """Write JSON as MXNet reads it.

    It knows five escapes and takes everything else as it is (``dmlc/json.h``).
    """
    text = json.dumps(data, ensure_ascii=False)
    return _ESCAPES.sub(_unescaped, text) if _ESCAPES.search(text) else text


#: Escapes that MXNet does not know.  An escaped backslash matches as well, so that it and what
#: follows it are not taken for one.
_ESCAPES = re.compile(r"(\\\\)|\\(?:u([0-9a-f]{4})|[bf])")


def _unescaped(found: re.Match[str]) -> str:
    return found[1] or (chr(int(found[2], 16)) if found[2] else {"b": "\b", "f": "\f"}[found[0][1]])


def check_json(text: str) -> None:
    """See that JSON is neither too long nor nested too deeply to be read.

    Raises:
        GraphError: It is.
    """
    if len(text) > MOST_CHARACTERS:
        raise GraphError(f"it has {len(text)} characters, expected {MOST_CHARACTERS} at the most")
    depth = 0
    for piece in _BRACKETS.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(piece[0], 0)
        if depth > DEEPEST:
            raise GraphError(f"it is nested more than {DEEPEST} levels deep")


# A bracket, or a whole string, so that brackets in strings do not count.  A string that is cut off
# reaches to the end of the text.
_BRACKETS = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[\]{}]', re.DOTALL)


def _lists(text: str) -> list[Any]:
    """MXNet's ``[[1,3],[2]]`` as a list; it prints ``None`` for an unknown number of axes."""
    return json.loads(text.replace("None", "null").replace(",]", "]")) if text else []


def inferred(symbol: Any, known: Mapping[str, tuple[int, ...]]) -> list[tuple[int, ...]]:
    """The shapes that MXNet infers for the outputs of a symbol.

    Args:
        symbol: MXNet's symbol.
        known: Shapes of variables by name, of whatever name: a keyword of ``infer_shape`` cannot
            have every one.

    Raises:
        EngineError: MXNet does not accept the shapes.
    """
    return _inferred(_shaped(Graph.from_mxnet(text_of(symbol)), known))


def _shaped(graph: Graph, known: Mapping[str, tuple[int, ...]]) -> Graph:
    """A graph whose variables say what their shapes are."""
    nodes = [
        replace(node, attrs={**node.attrs, "__shape__": str(known[node.name])})
        if node.is_variable and node.name in known
        else node
        for node in graph.nodes
    ]
    return Graph(nodes, graph.heads, graph.attrs)


def _inferred(graph: Graph) -> list[tuple[int, ...]]:
    """The shapes that MXNet infers for the heads of a graph.

    Raises:
        EngineError: MXNet does not accept the shapes of the variables.
    """
    import mxnet as mx

    text = graph.to_json()
    breathe()
    symbol = mx.sym.load_json(text)
    _, shapes, _ = symbol._infer_shape_impl(False)  # `infer_shape` prints to standard output
    breathe()
    if shapes is None:
        told = {node.name: node.attrs.get("__shape__") for node in graph.nodes if node.is_variable}
        raise EngineError(f"MXNet does not accept the shapes {told}")
    return list(shapes)


class Inference:
    """Infers the shapes of a graph's heads, as often as they are asked for.

    Args:
        graph: The graph.
    """

    def __init__(self, graph: Graph) -> None:
        import mxnet as mx

        # Keywords of `infer_shape` cannot have every name.
        names = {node.name: f"v{i}" for i, node in enumerate(graph.nodes) if node.is_variable}
        nodes = [
            replace(
                node,
                name=names[node.name],
                attrs={key: value for key, value in node.attrs.items() if key != "__shape__"},
            )
            if node.is_variable
            else node
            for node in graph.nodes
        ]
        self._symbol = mx.sym.load_json(Graph(nodes, graph.heads, graph.attrs).to_json())
        arguments = set(self._symbol.list_arguments())  # shapes of states are inferred
        self._names = {name: key for name, key in names.items() if key in arguments}

    def __call__(self, known: Mapping[str, tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
        """The shapes of the heads.

        Args:
            known: Shapes of variables by name.

        Raises:
            EngineError: MXNet does not accept them, or more have to be known.
        """
        from mxnet.base import MXNetError

        given = {key: known[name] for name, key in self._names.items() if name in known}
        try:
            _, shapes, _ = self._symbol._infer_shape_impl(False, **given)
        except MXNetError as error:
            raise EngineError(f"MXNet does not accept the shapes {dict(known)}") from error
        if shapes is None:
            raise EngineError(f"MXNet needs to know more shapes than {dict(known)}")
        return tuple(map(tuple, shapes))


def with_shapes(graph: Graph, known: Mapping[str, tuple[int, ...]]) -> Graph:
    """A graph with shapes inferred anew from the shapes of its variables.

    Raises:
        EngineError: MXNet does not accept the shapes.
    """
    # Every output of every node as a head, so that one inference answers for all.
    entries = [Entry(i, k) for i, node in enumerate(graph.nodes) for k in range(len(node.types))]
    heads = _inferred(_shaped(Graph(graph.nodes, entries, graph.attrs), known))
    shape_of = dict(zip(entries, heads, strict=True))
    nodes = [
        replace(
            node,
            types=tuple(
                TensorType(tuple(shape_of[Entry(i, k)]), old.dtype)
                for k, old in enumerate(node.types)
            ),
        )
        for i, node in enumerate(graph.nodes)
    ]
    return Graph(nodes, graph.heads, graph.attrs)
