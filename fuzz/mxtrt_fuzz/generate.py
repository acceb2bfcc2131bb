"""Hypothesis strategies of cases.

A graph grows forward, one operator (or motif) at a time, until a flag says stop.  It is valid
by construction: an operator is applied only to a value that it accepts, its other inputs are
values of the pool that fit or new variables, and its outputs join the pool.  The reference is
evaluated along the way, which gives shapes, and keeps the numbers such that they tell something.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from hypothesis import strategies as st

from mxtrt.convert.ops import registry
from mxtrt.graph.symbol import Entry
from mxtrt_fuzz import calls, client
from mxtrt_fuzz.graphs import (
    BINDS,
    C_BINDS,
    LANES,
    PRECISIONS,
    Case,
    Node,
    Operation,
    Role,
    Shape,
    Tensor,
    Variable,
)
from mxtrt_fuzz.specs import INTEGERS, Application, Attributes, Operand, OpSpec, specs, whole
from mxtrt_fuzz.values import Array, fill, wide

__all__ = ["Grower", "cases", "client_cases", "hybrid", "operator_cases"]

#: Operators that most networks are made of; an example draws some of them, and a few others.
COMMON = (
    "Activation",
    "BatchNorm",
    "Cast",
    "Concat",
    "Convolution",
    "Flatten",
    "FullyConnected",
    "LeakyReLU",
    "Pooling",
    "Reshape",
    "SliceChannel",
    "_greater_scalar",
    "_mul_scalar",
    "_plus_scalar",
    "broadcast_add",
    "broadcast_mul",
    "clip",
    "elemwise_add",
    "elemwise_mul",
    "mean",
    "relu",
    "round",
    "slice_axis",
    "softmax",
    "transpose",
)

#: Dtypes of a graph's first input besides float32.
_DTYPES = (*INTEGERS, "float64", "float64")
#: Drawn as often as all of these together, in the lanes whose numbers float16 holds.
_HALF = "float16"

#: Patterns of names.  MXNet takes any text for a name, so whatever reads or makes names has to.
_NAMES = (
    "{}",
    "卷积_{}",
    "{} \U0001f600",
    '"{}\\"',
    "{}\\u0041",
    "{}\n\t\x01",
    "a/{}:0,b.c",
    "{}__1",
    "{}__float32",
)

_ROLES: tuple[Role, ...] = ("data", "data", "weight")
_MOST_OPERATORS = 24
_MOST_ELEMENTS = 2048
_LARGEST = 1e4
#: The largest element in float16, which can sum up this many of them, or of their squares.
_LARGEST_HALF = 32.0
_WIDE = 40_000
#: How often a case is bound in Python for every time in each of the ways in C.
_RARE = 20


@dataclass(frozen=True, slots=True)
class _Value:
    entry: Entry
    tensor: Tensor
    array: Array


class Grower:
    """A graph that grows.

    Args:
        draw: Hypothesis' draw.
        seed: Seed of the variables' values.
        lane: What the data hold; the graph is grown on tame numbers whatever it says.
        named: Whether names are drawn too.
    """

    def __init__(
        self, draw: st.DrawFn, seed: int, lane: str = "uniform", named: bool = False
    ) -> None:
        self._draw = draw
        self._named = named
        self._seed = seed
        self._lane = lane if lane == "grid" else "uniform"
        self._numbers: dict[str, int] = {}
        self._owned: set[int] = set()
        self.nodes: list[Node] = []
        self.pool: list[_Value] = []
        self.operators = 0

    # -- building blocks -------------------------------------------------------------------

    def variable(
        self,
        tensor: Tensor,
        role: Role = "data",
        low: float = -2.0,
        high: float = 2.0,
    ) -> _Value:
        """A new variable; weights do not join the pool."""
        if np.issubdtype(tensor.dtype, np.unsignedinteger):
            low, high = max(low, 0.0), max(high, 0.0)
        variable = Variable(self._name(role), tensor, role, float(low), float(high))
        lane = self._lane if role == "data" else "uniform"
        array = fill(variable, self._seed, 0, lane).astype(wide(tensor.dtype))
        self.nodes.append(variable)
        value = _Value(Entry(len(self.nodes) - 1), tensor, array)
        if role == "data":
            self.pool.append(value)
        return value

    def apply(self, spec: OpSpec, first: _Value | None) -> list[_Value]:
        """Apply an operator to a value; nothing comes of it where the result would be useless.

        Args:
            spec: The operator.
            first: Its first input, None if it creates values.
        """
        shape, dtype = Tensor(()) if first is None else first.tensor
        application = spec.apply(self._draw, shape)
        start = len(self.nodes), len(self.pool), dict(self._numbers)
        inputs = [] if first is None else [first]
        for operand in application.operands:
            inputs.append(self._operand(operand, operand.dtype or dtype))
        outputs = self._node(spec, application, inputs)
        if not outputs:
            del self.nodes[start[0] :], self.pool[start[1] :]
            self._numbers = start[2]
            self._owned = {index for index in self._owned if index < start[0]}
        return outputs

    def _node(
        self, spec: OpSpec, application: Application, inputs: Sequence[_Value]
    ) -> list[_Value]:
        attrs = tuple(sorted((key, str(value)) for key, value in application.attrs.items()))
        read = Attributes(attrs, *(value.tensor.dtype for value in inputs[:1]))
        with np.errstate(all="ignore"):
            arrays = spec.outputs(read, [value.array for value in inputs])
        tensors = spec.typed(read, [value.tensor.dtype for value in inputs], arrays)
        if not all(_is_tame(a, tensor.dtype) for a, tensor in zip(arrays, tensors, strict=True)):
            return []
        node = Operation(
            spec.name, self._name("op"), attrs, tuple(v.entry for v in inputs), tensors
        )
        self.nodes.append(node)
        self.operators += 1
        index = len(self.nodes) - 1
        outputs = [
            _Value(Entry(index, i), tensor, array.astype(wide(tensor.dtype)))
            for i, (tensor, array) in enumerate(zip(tensors, arrays, strict=True))
        ]
        self.pool += outputs
        return outputs

    def _name(self, kind: str) -> str:
        number = self._numbers[kind] = self._numbers.get(kind, -1) + 1
        if not self._named:
            return f"{kind}{number}"
        if kind == "data" and not self._draw(st.integers(0, 3)):
            return f"op{number}_output0"  # as an operator's output may be called
        return self._draw(st.sampled_from(_NAMES)).format(f"{kind}{number}")

    def _operand(self, operand: Operand, dtype: str) -> _Value:
        draw, tensor = self._draw, Tensor(operand.shape, dtype)
        if operand.own:
            value = self.variable(tensor, operand.role, operand.low, operand.high)
            self._owned.add(value.entry.node)
            return value
        if operand.role != "data":
            shared = [
                i
                for i, node in enumerate(self.nodes)
                if isinstance(node, Variable)
                and i not in self._owned
                and (node.tensor, node.role) == (tensor, operand.role)
                and operand.low <= node.low <= node.high <= operand.high
            ]
            if shared and draw(st.integers(0, 3)) == 3:
                index = shared[draw(st.integers(0, len(shared) - 1))]
                node = self.nodes[index]
                assert isinstance(node, Variable)
                array = fill(node, self._seed).astype(wide(tensor.dtype))
                return _Value(Entry(index), tensor, array)
            return self.variable(tensor, operand.role, operand.low, operand.high)
        fits = operand.fits or (lambda shape: shape == operand.shape)
        fitting = [v for v in self.pool if v.tensor.dtype == dtype and fits(v.tensor.shape)]
        if fitting and draw(st.integers(0, 3)) > 0:
            return fitting[-1 - draw(st.integers(0, len(fitting) - 1))]
        role: Role = draw(st.sampled_from(_ROLES))
        return self.variable(tensor, role, operand.low, operand.high)

    def pick(self, accepts: Callable[[_Value], bool]) -> _Value | None:
        """A value of the pool, more often one of the latest: deep graphs rather than wide ones."""
        fitting = [value for value in reversed(self.pool) if accepts(value)]
        if not fitting:
            return None
        if self._draw(st.integers(0, 3)):
            fitting = fitting[:2]
        return fitting[self._draw(st.integers(0, len(fitting) - 1))]

    # -- growth ----------------------------------------------------------------------------

    def grow(self, spec: OpSpec) -> list[_Value]:
        """Apply an operator to some value that it accepts, or to a new input."""

        def accepts(value: _Value) -> bool:
            return value.tensor.dtype in spec.dtypes and spec.accepts(value.tensor.shape)

        if spec.creates:
            return self.apply(spec, None)
        value = self.pick(accepts)
        if value is None:
            value = self.variable(Tensor(self.first(spec), spec.dtypes[0]))
        if spec.domain is not None:
            value = self._inside(value, *spec.domain)
        return self.apply(spec, value) if value is not None else []

    def first(self, spec: OpSpec) -> Shape:
        """A shape of a new first input of an operator."""
        return spec.first(self._draw) if spec.first else self.shape(spec.accepts)

    def shape(self, accepts: Callable[[Shape], bool] = lambda shape: True) -> Shape:
        """A shape of an input; mostly pictures."""
        ranks = [r for r in (4, 4, 4, 2, 3, 5, 1) if accepts((2,) * r)]
        rank = self._draw(st.sampled_from(ranks))
        batch = self._draw(st.integers(1, 3))
        channels = self._draw(st.sampled_from([2, 4, 1, 3, 6]))
        largest = {1: 8, 2: 8, 3: 8, 4: 7, 5: 4}[rank]
        rest = self._draw(
            st.lists(st.integers(1, largest), min_size=max(rank - 2, 0), max_size=max(rank - 2, 0))
        )
        return (batch, channels, *rest)[:rank]

    def _inside(self, value: _Value, low: float, high: float) -> _Value | None:
        """The value, clipped where it leaves a range."""
        if value.array.min() >= low and value.array.max() <= high:
            return value
        clipped = self._node(specs()["clip"], Application({"a_min": low, "a_max": high}), [value])
        return clipped[0] if clipped else None

    def heads(self) -> tuple[Entry, ...]:
        """What the graph returns: values that nothing reads, and some that something reads."""
        read = {e for n in self.nodes if isinstance(n, Operation) for e in n.inputs}
        made = [v.entry for v in self.pool if isinstance(self.nodes[v.entry.node], Operation)]
        leaves = [entry for entry in made if entry not in read][-3:]
        every = [value.entry for value in self.pool]
        more = self._draw(st.lists(st.integers(0, len(every) - 1), max_size=2))
        return (*leaves, *(every[place] for place in more))


def _is_tame(array: Array, dtype: str) -> bool:
    largest = _LARGEST_HALF if dtype == _HALF else _LARGEST
    low, high = -largest, largest
    if dtype in INTEGERS:
        low, high = max(low, np.iinfo(dtype).min), min(high, np.iinfo(dtype).max)
    return (
        0 < array.size <= _MOST_ELEMENTS
        and array.ndim <= 6
        and bool(np.isfinite(array).all())
        and low <= float(array.min())
        and float(array.max()) <= high
    )


# -- motifs: what networks are made of -------------------------------------------------------


def _conv_norm_relu(grower: Grower, draw: st.DrawFn) -> None:
    for name in ("Convolution", "BatchNorm", draw(st.sampled_from(["Activation", "relu"]))):
        if not grower.grow(specs()[name]):
            return


def _residual(grower: Grower, draw: st.DrawFn) -> None:
    start = grower.pick(lambda v: len(v.tensor.shape) == 4 and v.tensor.dtype == "float32")
    if start is None:
        return
    channels = start.tensor.shape[1]
    body = grower._node(
        specs()["Convolution"],
        Application({"kernel": (3, 3), "pad": (1, 1), "num_filter": channels, "no_bias": True}),
        [start, grower.variable(Tensor((channels, channels, 3, 3)), "weight", -0.5, 0.5)],
    )
    for value in body:
        for total in grower._node(specs()["elemwise_add"], Application(), [value, start]):
            grower.apply(specs()["relu"], total)


def _shared_weight(grower: Grower, draw: st.DrawFn) -> None:
    start = grower.pick(lambda v: v.tensor.dtype == "float32" and prod(v.tensor.shape[1:]) <= 64)
    if start is None:
        return
    size = prod(start.tensor.shape[1:])
    weight = grower.variable(Tensor((size, size)), "weight", -0.5, 0.5)
    value = start
    for _ in range(2):
        made = grower._node(
            specs()["FullyConnected"],
            Application({"num_hidden": size, "no_bias": True}),
            [value, weight],
        )
        if not made:
            return
        value = made[0]


def _constant_branch(grower: Grower, draw: st.DrawFn) -> None:
    """A branch that reads only weights, added to a value."""
    start = grower.pick(lambda v: v.tensor.dtype not in INTEGERS)
    if start is None:
        return
    weight = grower.variable(start.tensor, "weight")
    name = draw(st.sampled_from(["tanh", "square", "_mul_scalar"]))
    attrs = {"scalar": 0.5} if name == "_mul_scalar" else {}
    for value in grower._node(specs()[name], Application(attrs), [weight]):
        grower._node(specs()["elemwise_add"], Application(), [start, value])


def _split_and_join(grower: Grower, draw: st.DrawFn) -> None:
    """Several outputs of one node, joined in another order: a channel shuffle."""
    dtypes = set(specs()["SliceChannel"].dtypes) & set(specs()["Concat"].dtypes)
    start = grower.pick(
        lambda v: (
            len(v.tensor.shape) > 1 and v.tensor.shape[1] % 2 == 0 and v.tensor.dtype in dtypes
        )
    )
    if start is None:
        return
    parts = grower._node(specs()["SliceChannel"], Application({"num_outputs": 2}), [start])
    if parts:
        parts = parts[::-1] if draw(st.booleans()) else parts
        grower._node(specs()["Concat"], Application({"num_args": 2, "dim": 1}), parts)


def _wide_layer(grower: Grower, draw: st.DrawFn) -> None:
    """A weight large enough to leave MXNet's memory when an engine holds it."""
    start = grower.pick(lambda v: prod(v.tensor.shape[1:]) >= 32 and v.tensor.dtype == "float32")
    if start is None:
        return
    inputs = prod(start.tensor.shape[1:])
    hidden = min(_WIDE // inputs, _MOST_ELEMENTS // start.tensor.shape[0])
    weight = grower.variable(Tensor((hidden, inputs)), "weight", -0.1, 0.1)
    application = Application({"num_hidden": hidden, "no_bias": True})
    grower._node(specs()["FullyConnected"], application, [start, weight])


MOTIFS = (
    _conv_norm_relu,
    _residual,
    _shared_weight,
    _constant_branch,
    _split_and_join,
    _wide_layer,
)


# -- strategies ------------------------------------------------------------------------------


@st.composite
def cases(
    draw: st.DrawFn,
    most: int = _MOST_OPERATORS,
    lanes: Sequence[str] = LANES,
    layers: bool = False,
) -> Case:
    """Cases: a graph with heads, lane, support mask and bind path, all drawn.

    Args:
        draw: Hypothesis' draw.
        most: Largest number of operators (a motif may exceed it).
        lanes: Lanes to draw from; most cases take the first.
        layers: Whether it begins with a convolution and its normalization.
    """
    lane = draw(st.sampled_from([*[lanes[0]] * 9, *lanes[1:]]))
    named = not draw(st.integers(0, 4))
    grower = Grower(draw, draw(st.integers(0, 2**16)), lane, named)
    swarm = draw(st.lists(st.sampled_from(COMMON), min_size=3, max_size=10, unique=True))
    swarm += draw(st.lists(st.sampled_from(sorted(specs())), min_size=2, max_size=8, unique=True))
    others = (*_DTYPES, *([_HALF] * len(_DTYPES) if lane in ("uniform", "grid") else ()))
    dtype = draw(st.sampled_from(others)) if draw(st.integers(0, 7)) > 5 else "float32"
    if layers:
        sides = (st.integers(1, 3), st.integers(1, 4), st.integers(3, 6), st.integers(3, 6))
        grower.variable(Tensor(tuple(map(draw, sides))))
        _conv_norm_relu(grower, draw)
    else:
        grower.variable(Tensor(grower.shape(), dtype))
    while grower.operators == 0 or (grower.operators < most and draw(st.integers(0, 30))):
        before = grower.operators
        step = draw(st.integers(0, len(swarm) + 1))
        if step < len(swarm):
            grower.grow(specs()[swarm[step]])
        else:
            draw(st.sampled_from(MOTIFS))(grower, draw)
        if grower.operators == 0 and before == 0:  # nothing applied: an operator that always does
            grower._node(*_computed(grower.pool[0]), [grower.pool[0]])
    return _finished(draw, grower, lane)


def _computed(value: _Value) -> tuple[OpSpec, Application]:
    """An operator that an engine computes, whatever the value."""
    if value.tensor.dtype in INTEGERS:
        return specs()["Cast"], Application({"dtype": "float32"})
    return specs()["_mul_scalar"], Application({"scalar": 2.0})


def _finished(draw: st.DrawFn, grower: Grower, lane: str) -> Case:
    case = whole(Case(tuple(grower.nodes), grower.heads(), lane=lane, seed=grower._seed))
    used = sorted({node.op for node in case.operations})
    denied = draw(st.lists(st.sampled_from(used), max_size=4, unique=True)) if used else []
    precisions = [PRECISIONS[0]] * 7 + list(PRECISIONS[1:] if lane in ("uniform", "grid") else ())
    case = case.replace(
        bind=_in_c(draw, case, draw(_binds(case))),
        denied=tuple(sorted(denied)),
        inline=draw(st.booleans()),
        precision=draw(st.sampled_from(precisions)),
    )
    return case.replace(calls=calls.drawn(case))


def _binds(case: Case) -> st.SearchStrategy[str]:
    """Ways to bind a case in Python."""
    ways = [way for way in BINDS if way not in C_BINDS]
    return st.sampled_from([way for way in ways if hybrid(case) or not way.startswith("gluon")])


def _in_c(draw: st.DrawFn, case: Case, way: str) -> str:
    """A way to bind a case in a program in C, or rather the given one.

    Drawn on every machine, so that those without a compiler draw the same graphs.
    """
    drawn = draw(st.sampled_from([way] * _RARE + [*C_BINDS]))
    return _fitting(case, drawn) if client.available() else way


def _fitting(case: Case, way: str) -> str:
    """A way to bind, or another one in C where the case has an operator that it does not take."""
    return "c_bind" if way == "c_cached_op" and not hybrid(case) else way


@st.composite
def client_cases(draw: st.DrawFn, ways: Sequence[str] = C_BINDS) -> Case:
    """Cases that a program in C binds.

    Args:
        draw: Hypothesis' draw.
        ways: Ways to bind to draw from.
    """
    case = draw(cases())
    case = case.replace(bind=_fitting(case, draw(st.sampled_from(ways))), calls=())
    return case.replace(calls=calls.drawn(case))


def hybrid(case: Case) -> bool:
    """Whether Gluon's ``CachedOp`` takes a case."""
    return all(specs()[node.op].hybrid for node in case.operations)


def _used(grower: Grower, value: _Value, known: bool) -> tuple[OpSpec, Application, list[_Value]]:
    """An operator that computes with a value of any dtype, and with data if it is known at bind."""
    if not known:
        return *_computed(value), [value]
    condition = grower.variable(Tensor(value.tensor.shape), "data", -1, 1)
    zeros = grower.variable(value.tensor, "weight", 0, 1)
    return specs()["where"], Application(), [condition, value, zeros]


@st.composite
def operator_cases(draw: st.DrawFn, name: str, dtype: str | None = None) -> Case:
    """One operator alone, over its attribute space, on a new input inside its domain.

    Args:
        draw: Hypothesis' draw.
        name: MXNet's name of the operator.
        dtype: Dtype of its first input; drawn by default.
    """
    spec = specs()[name]
    lane = draw(st.sampled_from(["uniform", "grid"]))
    grower = Grower(draw, draw(st.integers(0, 2**16)), lane)
    low, high = spec.domain or (-3.0, 3.0)
    outputs: list[Any] = []
    # No engine computes in float64, so that the operator would stay in MXNet.
    wide = [dtype for dtype in spec.dtypes if dtype not in ("float64", _HALF)]
    if dtype is None:
        dtype = draw(st.sampled_from(wide * 3 + [_HALF] * (_HALF in spec.dtypes)))
    for attempt in range(4):
        first = None
        if not spec.creates:
            first = grower.variable(Tensor(grower.first(spec), dtype), "data", low, high)
        outputs = grower.apply(spec, first)
        if outputs:
            break
        # Too large or not finite: a narrower range away from zero.
        low, high = (0.5, 1.0 + 1 / (attempt + 1)) if spec.domain is None else (low, high)
    entry = registry().get(name)
    if entry is not None and entry.moves_data_only:
        # Alone it would stay in MXNet: an engine runs nothing that only moves data.
        known = spec.creates or bool(entry.shape_only)
        outputs = [v for o in outputs for v in grower._node(*_used(grower, o, known))]
    heads = tuple(value.entry for value in outputs) or (grower.pool[-1].entry,)
    case = whole(Case(tuple(grower.nodes), heads, lane=lane, seed=grower._seed))
    case = case.replace(bind=draw(_binds(case)))
    return case.replace(calls=calls.drawn(case))
