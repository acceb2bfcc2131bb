"""A case: one graph with everything that its run depends on, and nothing else.

A case is plain data: it is written to JSON, hashed, shrunk and replayed.  The values of its
variables follow from ``seed`` (:mod:`mxtrt_fuzz.values`), so that they need not be stored.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

from mxtrt.graph.symbol import Entry, write_json
from mxtrt.plain.dtypes import DTYPES

__all__ = [
    "BINDS",
    "C_BINDS",
    "HELD",
    "LANES",
    "PRECISIONS",
    "STEPS",
    "STORY_WRITES",
    "WRITES",
    "Call",
    "Case",
    "Operation",
    "Role",
    "Shape",
    "Step",
    "Tensor",
    "Variable",
]

Shape = tuple[int, ...]
Role = Literal["data", "weight", "aux"]

#: Ways to bind in a program in C: MXNet's two, ``CachedOp``, and the predict API.
C_BINDS = ("c_bind", "c_simple_bind", "c_cached_op", "c_predict")

#: Ways to bind: MXNet's two, Gluon without and with static memory, Module, the explicit pass, and
#: those of a program in C.
BINDS = (
    *("bind", "simple_bind", "gluon", "gluon_static", "module", "optimize_for", "pickled"),
    *C_BINDS,
)

#: Ways to write to weights: all of an array in place, its first row in place, by what the way to
#: bind has for it (``set_data``, ``set_params``, ``copy_params_from``), and from a file.
WRITES = ("assign", "row", "set", "load")

#: The same in a story, where arrays are written to through a view, by an operator, and by another
#: thread besides.
STORY_WRITES = (*WRITES, "view", "operator", "thread")

#: Precisions of the engines that cases are run in; int8 is calibrated on the case's own data.
PRECISIONS = ("fp32", "fp16", "int8")

#: What the data hold: uniform numbers, halves (ties, zeros), or some special values among them.
LANES = ("uniform", "grid", "subnormal", "huge", "nonfinite")

#: What happens in a story: a new object is bound, from the case's arrays or on those of another
#: object; one is called, written to, trained for a forward, saved and loaded, or dropped; all are
#: called at once by threads; all engines that there are fail.
STEPS = ("bind", "share", "call", "write", "train", "reload", "drop", "together", "fail")

#: The attribute of an operator that says which graph it holds, as MXNet's JSON.
HELD = "__held__"

_FORMAT = 1
# MXNet's type flags (mshadow/base.h).
_TYPE_FLAGS = {str(dtype): str(flag) for flag, dtype in DTYPES.items()}


class Tensor(NamedTuple):
    """Shape and dtype (by NumPy name) of a value."""

    shape: Shape
    dtype: str = "float32"


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable of the symbol.

    Attributes:
        name: Unique name.
        tensor: Shape and dtype.
        role: Data change between forwards; weights and auxiliary states do not.
        low: Smallest value of the uniform distribution that fills it.
        high: Largest value.
    """

    name: str
    tensor: Tensor
    role: Role = "data"
    low: float = -2.0
    high: float = 2.0


@dataclass(frozen=True, slots=True)
class Operation:
    """An operator node.

    Attributes:
        op: MXNet operator name.
        name: Unique name.
        attrs: Attributes as MXNet stores them, sorted by key.
        inputs: Entries that it reads; every one is before it.
        outputs: Shape and dtype of every visible output.
    """

    op: str
    name: str
    attrs: tuple[tuple[str, str], ...]
    inputs: tuple[Entry, ...]
    outputs: tuple[Tensor, ...]


Node = Variable | Operation


@dataclass(frozen=True, slots=True)
class Call:
    """A later call of a bound case.

    Attributes:
        grown: Inputs that are larger than the case says: name, axis, and by how much.
        written: Weights that are written to before, by name, each in one of :data:`WRITES`.
    """

    grown: tuple[tuple[str, int, int], ...] = ()
    written: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a story.

    Attributes:
        what: One of :data:`STEPS`.
        who: The object, counted in the order in which they were made; of ``bind``, which values its
            weights have, 0 for the case's.
        how: Of ``bind`` one of :data:`BINDS`, of ``write`` one of :data:`STORY_WRITES`, and of
            ``call`` ``held`` where it writes to the arrays of the call before.
        names: The weights that are written to; of ``bind`` the operators that are denied.
        grown: Of ``call``: inputs that are larger than the case says: name, axis, and by how much.
    """

    what: str
    who: int = 0
    how: str = ""
    names: tuple[str, ...] = ()
    grown: tuple[tuple[str, int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Case:
    """A graph, how it is bound, and what is denied to the engine.

    Attributes:
        nodes: Variables and operators in topological order.
        heads: What the symbol returns, in order, repeats included.
        bind: One of :data:`BINDS`.
        denied: Operators of the drawn support mask, which stay in MXNet.
        lane: One of :data:`LANES`.
        inline: Whether a graph of one segment may run on the calling thread.
        seed: Seed of the variables' values.
        precision: One of :data:`PRECISIONS`.
        calls: What it is called with later, one after the other.
        story: What happens to objects that are bound of the graph; such a case is run as its story
            says, and not as it is bound itself.
    """

    nodes: tuple[Node, ...]
    heads: tuple[Entry, ...]
    bind: str = "bind"
    denied: tuple[str, ...] = ()
    lane: str = "uniform"
    inline: bool = False
    seed: int = 0
    precision: str = "fp32"
    calls: tuple[Call, ...] = ()
    story: tuple[Step, ...] = ()

    def tensor(self, entry: Entry) -> Tensor:
        """Shape and dtype of an entry."""
        node = self.nodes[entry.node]
        return node.tensor if isinstance(node, Variable) else node.outputs[entry.output]

    @property
    def variables(self) -> tuple[Variable, ...]:
        """The variables, in the order of the nodes."""
        return tuple(node for node in self.nodes if isinstance(node, Variable))

    @property
    def operations(self) -> tuple[Operation, ...]:
        """The operator nodes, in order."""
        return tuple(node for node in self.nodes if isinstance(node, Operation))

    def replace(self, **changes: Any) -> Case:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def keeping(self, wanted: Callable[[int], bool] | None = None) -> Case:
        """The case without the nodes that no head needs (or that are not ``wanted``)."""
        needed = {head.node for head in self.heads}
        for index in range(len(self.nodes) - 1, -1, -1):
            node = self.nodes[index]
            if index in needed and isinstance(node, Operation):
                needed.update(entry.node for entry in node.inputs)
        kept = [i for i in range(len(self.nodes)) if i in needed and (wanted is None or wanted(i))]
        place = {old: new for new, old in enumerate(kept)}

        def move(entries: Iterable[Entry]) -> tuple[Entry, ...]:
            return tuple(Entry(place[e.node], e.output) for e in entries)

        nodes = tuple(
            dataclasses.replace(node, inputs=move(node.inputs))
            if isinstance(node, Operation)
            else node
            for node in (self.nodes[i] for i in kept)
        )
        return self.replace(nodes=nodes, heads=move(self.heads))

    # -- what MXNet reads -----------------------------------------------------------------

    def symbol_json(self, heads: Sequence[Entry] | None = None) -> str:
        """The symbol as MXNet's JSON.

        Args:
            heads: Entries to return instead of the case's own heads.
        """
        items: list[dict[str, Any]] = []
        for node in self.nodes:
            if isinstance(node, Variable):
                item: dict[str, Any] = {"op": "null", "name": node.name, "inputs": []}
                if node.role != "data":  # MXNet infers some of these and refuses to guess others
                    flag = _TYPE_FLAGS[node.tensor.dtype]
                    item["attrs"] = {"__shape__": str(node.tensor.shape), "__dtype__": flag}
                items.append(item)
            else:
                inputs = [[e.node, e.output, 0] for e in node.inputs]
                item = {"op": node.op, "name": node.name, "inputs": inputs}
                attrs = dict(node.attrs)
                if held := attrs.pop(HELD, None):
                    item["subgraphs"] = [json.loads(held)]
                items.append(item | ({"attrs": attrs} if attrs else {}))
        return write_json(
            {
                "nodes": items,
                "arg_nodes": [i for i, n in enumerate(self.nodes) if isinstance(n, Variable)],
                "heads": [[e.node, e.output, 0] for e in (self.heads if heads is None else heads)],
                "attrs": {"mxnet_version": ["int", 10901]},
            }
        )

    # -- as JSON ---------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """The case as JSON-ready data."""
        nodes: list[dict[str, Any]] = []
        for node in self.nodes:
            if isinstance(node, Variable):
                item = dataclasses.asdict(node)
                item["tensor"] = _write(node.tensor)
            else:
                item = {
                    "op": node.op,
                    "name": node.name,
                    "attrs": dict(node.attrs),
                    "inputs": [list(e) for e in node.inputs],
                    "outputs": [_write(tensor) for tensor in node.outputs],
                }
            nodes.append(item)
        rest: dict[str, Any] = {
            "bind": self.bind,
            "denied": list(self.denied),
            "lane": self.lane,
            "inline": self.inline,
            "seed": self.seed,
        }
        if self.precision != "fp32":
            rest["precision"] = self.precision
        if self.calls:
            rest["calls"] = [dataclasses.asdict(call) for call in self.calls]
        if self.story:
            rest["story"] = [dataclasses.asdict(step) for step in self.story]
        heads = [list(head) for head in self.heads]
        return {"format": _FORMAT, "nodes": nodes, "heads": heads, **rest}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Case:
        """Read what :meth:`to_dict` gives.

        Raises:
            ValueError: The data are no case, or a node reads what is not before it.
        """
        try:
            if data["format"] != _FORMAT:
                raise ValueError(f"its format is {data['format']}, expected {_FORMAT}")
            nodes = tuple(_read_node(item) for item in data["nodes"])
            case = cls(
                nodes,
                tuple(Entry(*head) for head in data["heads"]),
                str(data["bind"]),
                tuple(map(str, data["denied"])),
                str(data["lane"]),
                bool(data["inline"]),
                int(data["seed"]),
                str(data.get("precision", "fp32")),
                tuple(map(_read_call, data.get("calls", ()))),
                tuple(map(_read_step, data.get("story", ()))),
            )
            for index, node in enumerate(nodes):
                if isinstance(node, Operation) and any(e.node >= index for e in node.inputs):
                    raise ValueError(f"node {node.name!r} reads a node that is not before it")
            for head in case.heads:
                case.tensor(head)
            if case.bind not in BINDS or case.lane not in LANES or not case.heads:
                raise ValueError(f"bind {case.bind!r} or lane {case.lane!r} is not known")
            if case.precision not in PRECISIONS:
                raise ValueError(f"precision {case.precision!r} is not known")
            if {how for call in case.calls for _, how in call.written} - {*WRITES}:
                raise ValueError("a weight is written to in a way that is not known")
            if {step.what for step in case.story} - {*STEPS}:
                raise ValueError("a step of the story is not known")
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            raise ValueError(f"not a case ({type(error).__name__}: {error})") from error
        return case

    def to_json(self) -> str:
        """The case as JSON text."""
        return json.dumps(self.to_dict(), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Case:
        """Read JSON text.

        Raises:
            ValueError: The text is no case.
        """
        return cls.from_dict(json.loads(text))

    @property
    def digest(self) -> str:
        """Content hash, eight hexadecimal digits."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:8]


def _write(tensor: Tensor) -> list[Any]:
    return [list(tensor.shape), tensor.dtype]


def _tensor(item: Sequence[Any]) -> Tensor:
    shape, dtype = item
    return Tensor(tuple(map(int, shape)), str(dtype))


def _read_call(item: Mapping[str, Any]) -> Call:
    written = tuple((str(name), str(how)) for name, how in item["written"])
    return Call(_read_grown(item), written)


def _read_step(item: Mapping[str, Any]) -> Step:
    names = tuple(map(str, item["names"]))
    return Step(str(item["what"]), int(item["who"]), str(item["how"]), names, _read_grown(item))


def _read_grown(item: Mapping[str, Any]) -> tuple[tuple[str, int, int], ...]:
    return tuple((str(name), int(axis), int(more)) for name, axis, more in item["grown"])


def _read_node(item: Mapping[str, Any]) -> Node:
    if "op" not in item:
        role = cast(Role, item["role"])
        return Variable(
            item["name"], _tensor(item["tensor"]), role, float(item["low"]), float(item["high"])
        )
    return Operation(
        item["op"],
        item["name"],
        tuple(sorted((str(k), str(v)) for k, v in item["attrs"].items())),
        tuple(Entry(*entry) for entry in item["inputs"]),
        tuple(map(_tensor, item["outputs"])),
    )
