"""Partitioning a symbol without binding it: ``mxtrt.inspect``."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mxtrt import config
from mxtrt.convert.segment import describe_segment, to_onnx
from mxtrt.engines import runs_on_cpu
from mxtrt.engines.kinds import ONNXRUNTIME, TENSORRT
from mxtrt.errors import GraphError
from mxtrt.graph.symbol import Graph, TensorType
from mxtrt.observe.report import Report
from mxtrt.plain.loading import mxnet_reason
from mxtrt.plan.analysis import analyse, describe

__all__ = ["inspect", "typed_graph"]

Shape = Sequence[int]


def typed_graph(
    symbol: Any, shapes: Mapping[str, Shape], dtypes: Mapping[str, Any] | None = None
) -> Graph:
    """A symbol as a graph with the shape and dtype of every entry that can be inferred.

    Args:
        symbol: An ``mxnet.symbol.Symbol``.
        shapes: Shapes of the data arguments.
        dtypes: Dtypes of arguments, float32 by default.

    Raises:
        GraphError: A name in ``shapes`` is no argument, or the shapes contradict the symbol.
    """
    from mxnet.base import MXNetError

    arguments = symbol.list_arguments()
    for name in shapes:
        if name not in arguments:
            data = ", ".join(_likely_data(symbol)) or "none"
            raise GraphError(
                f"a shape is given for {name!r}, which is no argument of the symbol; "
                f"its data arguments are: {data}"
            )
    internals = symbol.get_internals()
    graph = Graph.of(internals)
    heads = Graph.of(symbol).heads
    given = {name: tuple(shape) for name, shape in shapes.items()}
    numpy_types = {name: np.dtype(kind).type for name, kind in (dtypes or {}).items()}
    try:
        _, inferred, _ = internals.infer_shape_partial(**given)
        _, types, _ = internals.infer_type(**(numpy_types or dict.fromkeys(given, np.float32)))
    except MXNetError as error:
        reason = mxnet_reason(error)
        raise GraphError(f"the shapes {given} do not fit the symbol: {reason}") from error
    known: list[list[TensorType]] = [[] for _ in graph.nodes]
    for place, head in enumerate(graph.heads):  # every output of every node, in order
        shape = tuple(inferred[place]) if inferred else ()
        kind = types[place] if types else None
        full = bool(shape) and all(size > 0 for size in shape)
        known[head.node].append(
            TensorType(shape if full else None, None if kind is None else np.dtype(kind))
        )
    nodes = [
        dataclasses.replace(node, types=tuple(kinds))
        for node, kinds in zip(graph.nodes, known, strict=True)
    ]
    return Graph(nodes, heads, graph.attrs)


def _likely_data(symbol: Any) -> list[str]:
    from mxtrt.graph.roles import guess_weights

    weights = guess_weights(Graph.of(symbol))
    return [name for name in symbol.list_arguments() if name not in weights]


def inspect(
    symbol: Any,
    shapes: Mapping[str, Shape],
    dtypes: Mapping[str, Any] | None = None,
    **options: Any,
) -> Report:
    """What a bind of a symbol would do; no weights are needed and nothing is built.

    Args:
        symbol: An ``mxnet.symbol.Symbol``.
        shapes: Shapes of the data arguments by name, such as ``{"data": (1, 3, 224, 224)}``;
            every other argument is taken for a weight.
        dtypes: Dtypes of arguments, float32 by default.
        options: Options of the bind, see :data:`mxtrt.OPTIONS`.

    Returns:
        The report: segments, and a reason for every node that stays in MXNet.

    Raises:
        GraphError: A shape is given for something that is no argument, or contradicts the symbol.
        OptionError: An option is unknown or has a wrong value.
    """
    chosen = config.current().replace(**options)
    begin = time.perf_counter()
    graph = typed_graph(symbol, shapes, dtypes)
    states = symbol.list_auxiliary_states()
    weights = frozenset({*symbol.list_arguments(), *states} - set(shapes))
    kind = ONNXRUNTIME if runs_on_cpu(chosen) else TENSORRT
    found = analyse(graph, weights, chosen, engine=kind, on_cpu=kind.on_cpu)
    report = describe(graph, found, "none built")
    for place, segment in enumerate(found.segments):
        part, _ = graph.subgraph(segment.members, segment.outputs)
        model = to_onnx(part, {graph.nodes[index].name for index in segment.weights})
        report.segments.append(describe_segment(f"segment{place}", part, model))
    report.partition_seconds = time.perf_counter() - begin
    return report
