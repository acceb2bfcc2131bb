"""One segment on its own, in its engine and in MXNet, for comparing the two at bind.

The data are those of the bind where there are any, and random numbers otherwise, in range where
they are lengths or indices.  MXNet's operators run on copies of the segment's weights.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mxtrt.engines import Session
from mxtrt.errors import EngineError, RefusedNodesError
from mxtrt.graph.rewrite import node_attributes
from mxtrt.graph.symbol import Entry, Graph, Node
from mxtrt.node import library
from mxtrt.node.abi import OPERATOR
from mxtrt.plain.forward import bound, context_of
from mxtrt.trial.indices import keep_in_range

if TYPE_CHECKING:
    from mxtrt.plan.engine_node import EngineNode

__all__ = [
    "Array",
    "bind",
    "engine_graph",
    "operators",
    "run_engine",
    "run_session",
    "values_for",
]

Array = np.ndarray[Any, Any]

_NO_LIMIT = 2**62


def values_for(graph: Graph, inputs: Sequence[str], arrays: Mapping[str, Any]) -> dict[str, Array]:
    """A value for every variable of a segment.

    Args:
        graph: The segment, with shapes and dtypes.
        inputs: Names of the variables that its engine reads at every forward.
        arrays: Its weights, and its data where these are known: NDArrays or NumPy's.

    Raises:
        IndicesError: No values are known with which its lengths and indices are in range.
    """
    random = np.random.default_rng(0)
    values: dict[str, Array] = {}
    for variable in graph.nodes:
        if not variable.is_variable:
            continue
        (kind,) = variable.types
        name, shape, dtype = variable.name, kind.shape, kind.dtype
        assert shape is not None
        assert dtype is not None
        given: Any = arrays.get(name)
        known = given is not None and tuple(given.shape) == shape
        if name not in inputs:  # a weight, or a variable that the engine does not read
            values[name] = _numbers(given) if known else np.ones(shape, dtype)
        elif known and np.ptp(seen := _numbers(given)):
            values[name] = seen.astype(dtype)
        elif dtype.kind == "f":
            values[name] = random.standard_normal(shape).astype(dtype)
        else:
            values[name] = random.integers(0, 2, shape).astype(dtype)
    fixed = values.keys() - set(inputs)
    return keep_in_range(graph, values, fixed, lambda entry, tried: _value(graph, entry, tried))


def _numbers(array: Any) -> Array:
    numbers: Array = array.asnumpy() if hasattr(array, "asnumpy") else array
    return numbers


def _value(graph: Graph, entry: Entry, values: Mapping[str, Array]) -> Array:
    """What MXNet computes for an entry, on the CPU."""
    variable = graph.nodes[entry.node]
    if variable.is_variable:
        return values[variable.name]
    forward, _ = operators(graph, [entry], values, None)
    value: Array = forward()[0].asnumpy()
    return value


def bind(
    graph: Graph, entries: Sequence[Entry], values: Mapping[str, Array], gpu: int | None
) -> tuple[Any, dict[str, Any]]:
    """MXNet's own executor of a graph, as a program has it that binds symbols.

    Args:
        graph: A segment.
        entries: What it is to compute.
        values: Values of the graph's variables.
        gpu: Where to run.

    Returns:
        The executor, and the NDArrays that it reads by name.
    """
    import mxnet as mx

    context = context_of(gpu)
    symbol = mx.sym.load_json(Graph(graph.nodes, entries, graph.attrs).to_json())
    arrays = {n: mx.nd.array(a, dtype=a.dtype, ctx=context) for n, a in values.items()}
    return bound(symbol, arrays, context), arrays


def operators(
    graph: Graph, entries: Sequence[Entry], values: Mapping[str, Array], gpu: int | None
) -> tuple[Callable[[], list[Any]], dict[str, Any]]:
    """MXNet's own operators, one by one.

    An executor would take oneDNN's subgraphs for some of them, which fail or answer wrongly for a
    sum with what a convolution further back reads (``src/operator/subgraph/mkldnn``).

    Args:
        graph: A segment.
        entries: What it is to compute.
        values: Values of at least the variables that this depends on.
        gpu: Where to run.

    Returns:
        A function that computes them, and the NDArrays that it reads by name.
    """
    import mxnet as mx

    context = context_of(gpu)
    symbol = mx.sym.load_json(Graph(graph.nodes, entries, graph.attrs).to_json())
    names = symbol.list_inputs()
    arrays = {n: mx.nd.array(values[n], dtype=values[n].dtype, ctx=context) for n in names}
    compute = mx.nd.CachedOp(symbol)

    def forward() -> list[Any]:
        with mx.autograd.pause(train_mode=False), context:
            outputs = compute(*[arrays[name] for name in names])
        return outputs if isinstance(outputs, list) else [outputs]

    return forward, arrays


def engine_graph(node: EngineNode) -> Graph:
    """A graph of nothing but an engine node, whose variables are its inputs in order."""
    variables = {one.name: one for one in node.graph.nodes if one.is_variable}
    inputs = [variables[name] for name in node.inputs]
    read = tuple(Entry(place) for place in range(len(inputs)))
    attrs = node_attributes(node.key, library().token, len(inputs), len(node.graph.heads))
    engine = Node(OPERATOR, f"mxtrt{node.key}", attrs, read)
    heads = [Entry(len(inputs), place) for place in range(len(node.graph.heads))]
    return Graph([*inputs, engine], heads, node.graph.attrs)


def run_engine(node: EngineNode, values: Mapping[str, Array]) -> list[Array]:
    """The outputs of a segment's engine, run once on this thread.

    Raises:
        RefusedNodesError: It fails.
    """
    given = [values[name] for name in node.inputs]
    try:
        return _run(node.key, given, len(node.graph.heads), node.gpu)
    except EngineError as error:
        raise RefusedNodesError(dict.fromkeys(node.report.nodes, str(error))) from error


def run_session(
    session: Session, graph: Graph, inputs: Sequence[Array], gpu: int | None
) -> list[Array]:
    """The outputs of a session that serves no engine node yet, run once on this thread.

    Args:
        session: The session.
        graph: Its segment, with shapes and dtypes.
        inputs: What the session reads, in its order.
        gpu: The GPU that its inputs and outputs are on, None for host memory.

    Raises:
        EngineError: It fails.
    """
    lib = library()
    outputs = [graph.type_of(head) for head in graph.heads]
    key = lib.create_node(
        [array.dtype for array in inputs], [one.dtype for one in outputs if one.dtype], gpu
    )
    try:
        shapes = [*(array.shape for array in inputs), *(one.shape or () for one in outputs)]
        lib.put_variant(key, shapes, session.handle)
        return _run(key, inputs, len(outputs), gpu)
    finally:
        lib.release(key)


def _run(key: int, inputs: Sequence[Array], num_outputs: int, gpu: int | None) -> list[Array]:
    """The outputs of a node's engine.

    Raises:
        EngineError: It fails.
    """
    import mxnet as mx
    from mxnet.base import NDArrayHandle

    context = context_of(gpu)
    arrays = [mx.nd.array(values, dtype=values.dtype, ctx=context) for values in inputs]
    outputs = (ctypes.c_void_p * num_outputs)()
    handles = (ctypes.c_void_p * len(arrays))(*[array.handle for array in arrays])
    place = context.device_typeid, context.device_id
    done = library().run(key, handles, len(arrays), outputs, num_outputs, _NO_LIMIT, place)
    if done != 1:
        told = library().take_error() if done == 0 else "it takes no such inputs"
        raise EngineError(f"its engine does not run: {told}")
    return [mx.nd.NDArray(NDArrayHandle(handle)).asnumpy() for handle in outputs]
