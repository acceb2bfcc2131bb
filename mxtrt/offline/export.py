"""A whole model as one ONNX file, for leaving MXNet altogether."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper

from mxtrt.convert.segment import OnnxSegment, to_onnx
from mxtrt.convert.support import support
from mxtrt.errors import GraphError, Unsupported
from mxtrt.graph.symbol import Entry, Graph
from mxtrt.offline.inspection import typed_graph
from mxtrt.system.files import companion, new_file, remove_companions
from mxtrt.weights.paging import size_of

__all__ = ["export_onnx"]

Shape = Sequence[int]

#: Weights of more bytes are external data.
LARGE = 1 << 20
# Where external tensors begin, so that they can be mapped (onnx.proto: ExternalDataInfo).
_ALIGNMENT = 4096
_DATA = ".data"


def export_onnx(
    symbol: Any,
    params: Mapping[str, Any],
    shapes: Mapping[str, Shape],
    path: str | Path,
    dtypes: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Write a symbol with its weights as an ONNX model.

    Inputs and outputs have the symbol's names (an output that is also an input, or is returned
    twice, gets a name of its own).  The size of axis 0 is left open where the model does not
    depend on it; every other size is fixed.  Weights of more than 1 MiB are in a file next to
    the model.  An older model under this name stays whole until the new one is.

    Args:
        symbol: An ``mxnet.symbol.Symbol``.
        params: NDArrays of its weights and auxiliary states by name.
        shapes: Shapes of its data by name.
        path: Where to.
        dtypes: Dtypes of arguments, float32 by default.

    Returns:
        The files that were written: the model, and its external data if there are any.

    Raises:
        GraphError: Operators of the symbol cannot be exported (the message lists them), or a
            weight is missing or has a wrong shape.
        OSError: A file cannot be written.
    """
    path = Path(path)
    weights = frozenset(params)
    graph = typed_graph(symbol, shapes, dtypes)
    segment, heads = _segment(graph, weights)
    model = onnx.load_model_from_string(segment.model)
    _check(segment, params, shapes)
    open_axis = _batch_is_open(symbol, shapes, dtypes, weights, segment)
    _declare(model, segment, graph, heads, shapes, open_axis)
    _name_outputs(model, graph, list(symbol.list_outputs()))
    return _write(model, {w.name: params[w.name] for w in segment.weights}, path)


def _segment(graph: Graph, weights: frozenset[str]) -> tuple[OnnxSegment, list[Entry]]:
    """The whole graph as a model, and the heads that its nodes compute, each once."""
    reasons = support(graph).reasons
    if reasons:
        counted = Counter((graph.nodes[i].op, reason) for i, reason in reasons.items())
        told = "; ".join(f"{n} x {op} ({reason})" for (op, reason), n in sorted(counted.items()))
        raise GraphError(f"the symbol cannot be exported to ONNX because of its operators {told}")
    heads = [head for head in dict.fromkeys(graph.heads) if not graph.nodes[head.node].is_variable]
    if not heads:
        raise GraphError("the symbol cannot be exported to ONNX because it computes nothing")
    try:
        return to_onnx(Graph(graph.nodes, heads, graph.attrs), weights), heads
    except Unsupported as refusal:
        raise GraphError(f"the symbol cannot be exported to ONNX: {refusal}") from None


def _check(segment: OnnxSegment, params: Mapping[str, Any], shapes: Mapping[str, Shape]) -> None:
    for name in segment.inputs:
        if name not in shapes:
            raise GraphError(f"neither a shape nor a weight is given for argument {name!r}")
    for weight in segment.weights:
        seen = tuple(params[weight.name].shape)
        if seen != weight.shape or np.dtype(params[weight.name].dtype) != weight.dtype:
            raise GraphError(
                f"weight {weight.name!r} is {params[weight.name].dtype.__name__}{list(seen)}, "
                f"expected {weight.dtype}{list(weight.shape)}"
            )


def _batch_is_open(
    symbol: Any,
    shapes: Mapping[str, Shape],
    dtypes: Mapping[str, Any] | None,
    weights: frozenset[str],
    segment: OnnxSegment,
) -> bool:
    """Whether another size of axis 0 gives the same model."""
    if len({tuple(shape)[:1] for shape in shapes.values()}) != 1 or not all(shapes.values()):
        return False
    larger = {name: (shape[0] + 1, *shape[1:]) for name, shape in shapes.items()}
    try:
        other, _ = _segment(typed_graph(symbol, larger, dtypes), weights)
    except GraphError:
        return False
    return other.digest == segment.digest


def _declare(
    model: ModelProto,
    segment: OnnxSegment,
    graph: Graph,
    heads: Sequence[Entry],
    shapes: Mapping[str, Shape],
    open_axis: bool,
) -> None:
    """Replace the symbolic dimensions of inputs and outputs by sizes, or by ``batch``."""
    sizes: dict[str, Shape] = {name: shapes[name] for name in segment.inputs}
    for name, head in zip(segment.outputs, heads, strict=True):
        sizes[name] = graph.type_of(head).shape or ()
    batch = {shape[0] for shape in shapes.values()} if open_axis else set()
    for value in (*model.graph.input, *model.graph.output):
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            size = sizes[value.name][axis]
            if axis == 0 and size in batch:
                dim.dim_param = "batch"
            else:
                dim.dim_value = size


def _name_outputs(model: ModelProto, graph: Graph, names: Sequence[str]) -> None:
    """Give the model one output per head, under the symbol's names."""
    made = {value.name: value for value in (*model.graph.input, *model.graph.output)}
    used = {name for node in model.graph.node for name in (*node.input, *node.output)}
    used |= made.keys() | {tensor.name for tensor in model.graph.initializer}
    outputs, renamed = [], {}
    for head, wanted in zip(graph.heads, names, strict=True):
        producer = graph.nodes[head.node]
        inside = graph.value_name(head)
        if inside == wanted and not producer.is_variable and inside not in renamed:
            name = renamed[inside] = wanted
        else:
            name = wanted
            while name in used:
                name += "_output"
            if producer.is_variable or inside in renamed:
                model.graph.node.add(op_type="Identity", input=[inside], output=[name], name=name)
            else:
                renamed[inside] = name
        used.add(name)
        kind = made.get(inside)
        if kind is None:  # a weight
            tensor = graph.type_of(head)
            elem = helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype))
            kind = helper.make_tensor_value_info(inside, elem, tensor.shape)
        value = onnx.ValueInfoProto(name=name, type=kind.type)
        outputs.append(value)
    for node in model.graph.node:
        for values in (node.input, node.output):
            for place, value_name in enumerate(values):
                values[place] = renamed.get(value_name, value_name)
    del model.graph.output[:]
    model.graph.output.extend(outputs)


def _write(model: ModelProto, arrays: Mapping[str, Any], path: Path) -> list[Path]:
    external: list[TensorProto] = []
    for tensor in model.graph.initializer:
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        del tensor.external_data[:]
        if size_of(arrays[tensor.name]) > LARGE:
            external.append(tensor)
        else:
            tensor.data_location = TensorProto.DEFAULT
            tensor.raw_data = arrays[tensor.name].asnumpy().tobytes()
    written = [path]
    if external:
        with new_file(path.parent) as file:
            data = companion(path, _write_data(external, arrays, file.stream), _DATA)
            file.publish(data)
        for tensor in external:
            tensor.external_data.add(key="location", value=data.name)
        written.append(data)
    with new_file(path.parent) as file:
        file.stream.write(model.SerializeToString(deterministic=True))
        file.stream.flush()
        onnx.checker.check_model(str(file.path))
        file.publish(path)
    remove_companions(path, _DATA, written)
    return written


def _write_data(tensors: Sequence[TensorProto], arrays: Mapping[str, Any], file: IO[bytes]) -> str:
    content = hashlib.sha256()
    for tensor in tensors:
        gap = bytes(-file.tell() % _ALIGNMENT)
        raw = arrays[tensor.name].asnumpy().tobytes()
        tensor.external_data.add(key="offset", value=str(file.tell() + len(gap)))
        tensor.external_data.add(key="length", value=str(len(raw)))
        for piece in (gap, raw):
            file.write(piece)
            content.update(piece)
    return content.hexdigest()
