"""Later calls of a case: at other sizes of its inputs, and with other weights.

MXNet's shape inference lets sizes pass that do not go together, where kernels then read beyond
their inputs or divide by zero.  Sizes are taken to go together where the references compute every
operator, with the shapes that MXNet infers, and where sizes that were equal at an operator are
still equal, unless MXNet's inference compares them itself.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from mxtrt.graph.symbol import Entry
from mxtrt_fuzz.graphs import WRITES, Call, Case, Operation, Shape, Tensor, Variable
from mxtrt_fuzz.reduce import retyped
from mxtrt_fuzz.values import INPUT_SETS, Array, Arrays, fill, weight_arrays

__all__ = [
    "NO_WRITES",
    "drawn",
    "enlarged",
    "infers",
    "inputs_at",
    "kept_at_first",
    "weights_at",
    "written_at",
]

#: Ways to bind that leave no weights to write to.
NO_WRITES = ("optimize_for", "pickled", "c_predict")

#: Most elements of a tensor at other sizes.
_MOST_ELEMENTS = 2**15

#: Most axes of an array of which MXNet writes to a row.
MOST_AXES = 5

# Inputs and axes that are tried until one can be larger.
_TRIES = 4

#: Beginnings of the names of operators whose inputs' sizes MXNet's inference compares, or which
#: take inputs of any sizes: what they broadcast, join, or look up.
_COMPARED = (
    "broadcast_",
    "_npi_",
    "_np_",
    "elemwise_",
    "_equal",
    "_not_equal",
    "_greater",
    "_lesser",
    "_logical_",
    "_maximum",
    "_minimum",
    "_mod",
    "_power",
    "_hypot",
    "_plus",
    "_minus",
    "_mul",
    "_div",
    "add_n",
    "ElementWiseSum",
    "Concat",
    "concat",
    "stack",
    "FullyConnected",
    "Convolution",
    "Deconvolution",
    "BatchNorm",
    "LayerNorm",
    "InstanceNorm",
    "GroupNorm",
    "Embedding",
    "take",
    "dot",
    "batch_dot",
    "LeakyReLU",
)


#: Beginnings of the names of operators that keep what they made of weights at the first call.
_KEEPING = ("_sg_mkldnn_",)


def enlarged(case: Case, call: Call) -> Case | None:
    """The case at the sizes of a call; None where they do not go together."""
    more: dict[str, dict[int, int]] = {}
    for name, axis, by in call.grown:
        more.setdefault(name, {})[axis] = by
    nodes = []
    for node in case.nodes:
        if isinstance(node, Variable) and node.role == "data" and node.name in more:
            shape = tuple(
                size + more[node.name].get(axis, 0) for axis, size in enumerate(node.tensor.shape)
            )
            node = dataclasses.replace(node, tensor=Tensor(shape, node.tensor.dtype))
        nodes.append(node)
    made = retyped(case.replace(nodes=tuple(nodes), calls=()))
    if made is None or not _is_small(made) or not _go_together(case, made):
        return None
    return made


def infers(mx: Any, case: Case) -> bool:
    """Whether MXNet infers the shapes that a case says."""
    entries = [
        Entry(place, output)
        for place, node in enumerate(case.nodes)
        for output in range(len(_tensors(node)))
    ]
    shapes = {v.name: v.tensor.shape for v in case.variables if v.role == "data"}
    try:
        symbol = mx.sym.load_json(case.symbol_json(entries))
        # `infer_shape` prints to standard output what does not fit.
        inferred: Sequence[Any] | None = symbol._infer_shape_impl(False, **shapes)[1]
    except mx.MXNetError:
        return False
    expected = [case.tensor(entry).shape for entry in entries]
    return inferred is not None and [*map(tuple, inferred)] == expected


def _is_small(case: Case) -> bool:
    tensors = [t for node in case.nodes for t in _tensors(node)]
    return all(prod(tensor.shape) <= _MOST_ELEMENTS for tensor in tensors)


def _tensors(node: Variable | Operation) -> Sequence[Tensor]:
    return [node.tensor] if isinstance(node, Variable) else node.outputs


def _go_together(case: Case, made: Case) -> bool:
    """Whether sizes that were equal at an operator still are."""
    for node in case.operations:
        if len(node.inputs) < 2 or node.op.startswith(_COMPARED):
            continue
        before = [case.tensor(entry).shape for entry in node.inputs]
        after = [made.tensor(entry).shape for entry in node.inputs]
        if before != after and not _still_equal(before, after):
            return False
    return True


def _still_equal(before: Sequence[Shape], after: Sequence[Shape]) -> bool:
    places = [(i, axis) for i, shape in enumerate(before) for axis in range(len(shape))]
    return all(
        after[i][a] == after[j][b]
        for (i, a), (j, b) in itertools.combinations(places, 2)
        if i != j and before[i][a] == before[j][b]
    )


# -- values ----------------------------------------------------------------------------------


def inputs_at(case: Case, number: int, given: Arrays) -> dict[str, Array]:
    """Inputs of a later call.

    Args:
        case: The case at the sizes of that call.
        number: Which call it is.
        given: Values instead of those of the case's seed, named ``NAME@call0``.
    """
    found = {}
    for v in case.variables:
        if v.role == "data":
            known = given.get(f"{v.name}@call{number}")
            fits = known is not None and known.shape == v.tensor.shape
            array = known if fits else fill(v, case.seed, INPUT_SETS + number, case.lane)
            assert array is not None
            found[v.name] = array
    return found


def written_at(case: Case, number: int, given: Arrays) -> dict[tuple[str, str], Array]:
    """What is written to weights before a later call, by name and way.

    Args:
        case: The case.
        number: Which call it is.
        given: Values instead of those of the case's seed, named ``NAME@call0``.
    """
    if case.bind in NO_WRITES:
        return {}
    known = {v.name: v for v in case.variables if v.role != "data"}
    return {
        (name, how): given.get(
            f"{name}@call{number}", fill(known[name], case.seed, INPUT_SETS + number)
        )
        for name, how in case.calls[number].written
        if name in known
    }


def weights_at(case: Case, number: int, given: Arrays) -> dict[str, Array]:
    """Weights and auxiliary states at a later call.

    Args:
        case: The case.
        number: Which call it is.
        given: Values instead of those of the case's seed.
    """
    values = {name: given.get(name, array) for name, array in weight_arrays(case).items()}
    for earlier in range(number + 1):
        for (name, how), array in written_at(case, earlier, given).items():
            if how == "row":
                values[name] = values[name].copy()
                values[name][:1] = array[:1]
            else:
                values[name] = array
    return values


# -- drawing ---------------------------------------------------------------------------------

#: How often a case is called at other sizes, and how often with other weights if it has any.
_SIZES, _WEIGHTS = 0.6, 0.6

#: How much larger an axis gets at most.
_MOST = 6


def drawn(case: Case) -> tuple[Call, ...]:
    """Later calls of a case, which its seed and its graph draw.

    Hypothesis would draw none of them most of the time.
    """
    random = np.random.default_rng([case.seed, len(case.nodes), len(case.heads)])
    sizes, weights = random.random() < _SIZES, random.random() < _WEIGHTS
    axes = next(_growths(case, random), ()) if sizes else ()
    kept = kept_at_first(case)
    names = [
        node.name
        for place, node in enumerate(case.nodes)
        if isinstance(node, Variable) and node.role != "data" and place not in kept
    ]
    if not weights or case.bind in NO_WRITES:
        names = []
    first = int(random.integers(1, _MOST))
    # The later one is between those that a model for many sizes is proved at.
    steps = (first, int(random.integers(1, first + 3)), 0) if axes else (0, 0)
    calls = []
    for turn, step in enumerate(steps):
        grown = tuple((name, axis, step) for name, axis in axes) if step else ()
        written = _writes(case, names, random) if names and (turn or not axes) else ()
        if grown or written or (turn and axes):
            calls.append(Call(grown, written))
    return tuple(calls)


def kept_at_first(case: Case) -> set[int]:
    """Places of what MXNet's operators read at the first call only."""
    return {
        entry.node for op in case.operations if op.op.startswith(_KEEPING) for entry in op.inputs
    }


def _growths(case: Case, random: np.random.Generator) -> Iterator[tuple[tuple[str, int], ...]]:
    """Axes that can be larger together."""
    every = [
        (v.name, axis, size)
        for v in case.variables
        if v.role == "data"
        for axis, size in enumerate(v.tensor.shape)
    ]
    for place in random.permutation(len(every))[:_TRIES]:
        name, axis, size = every[place]
        alike = tuple((n, a) for n, a, s in every if s == size)
        aligned = tuple((n, a) for n, a, s in every if (a, s) == (axis, size))
        for axes in dict.fromkeys((alike, aligned, ((name, axis),))):
            if enlarged(case, Call(tuple((n, a, 1) for n, a in axes))) is not None:
                yield axes
                break


def _writes(
    case: Case, names: Sequence[str], random: np.random.Generator
) -> tuple[tuple[str, str], ...]:
    """Some of the weights, and how they are written to."""
    shapes: Mapping[str, Shape] = {v.name: v.tensor.shape for v in case.variables}
    how = str(random.choice(WRITES))
    chosen = list(names) if random.random() < 0.4 else [names[random.integers(len(names))]]
    if how == "row":
        chosen = [name for name in chosen if 0 < len(shapes[name]) <= MOST_AXES]
    return tuple((name, how) for name in chosen)
