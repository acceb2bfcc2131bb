"""Building an ONNX model node by node.

Weights are never copied into the model: they are declared as *external* initializers and
handed to the engine by pointer.  Only small constants (shapes, scalars) are stored inline.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from mxtrt.graph.symbol import untaken

__all__ = ["IR_VERSION", "OPSET", "OnnxBuilder", "tensor_type"]

#: ONNX operator set that models are written in: the newest that TensorRT 8.5 parses.
OPSET = 17
#: ONNX IR version that goes with it.
IR_VERSION = 8

# Operators of later sets, which some engines have, and the set and IR version that came with them.
_LATER = {"DeformConv": (19, 9)}

# Their axes are an input from set 18 on.
_REDUCTIONS = frozenset(
    {"ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd"}
)

_ONNX_TYPES = {
    np.dtype(np.float32): TensorProto.FLOAT,
    np.dtype(np.float64): TensorProto.DOUBLE,
    np.dtype(np.float16): TensorProto.FLOAT16,
    np.dtype(np.uint8): TensorProto.UINT8,
    np.dtype(np.int8): TensorProto.INT8,
    np.dtype(np.int32): TensorProto.INT32,
    np.dtype(np.int64): TensorProto.INT64,
    np.dtype(np.bool_): TensorProto.BOOL,
}


def tensor_type(dtype: np.dtype[Any]) -> int:
    """ONNX element type of a NumPy dtype."""
    return _ONNX_TYPES[np.dtype(dtype)]


class OnnxBuilder:
    """Collects nodes and initializers, then writes one :class:`onnx.ModelProto`.

    Args:
        taken: Names that it must not make, because variables have them.
        varying: Whether a model for other sizes is to be made of the model.
        opset: The newest ONNX operator set whose operators the engine has.

    Attributes:
        varying: The same.
        opset: The same.
    """

    def __init__(
        self, taken: Collection[str] = (), varying: bool = False, opset: int = OPSET
    ) -> None:
        self._taken = taken
        self.varying = varying
        self.opset = opset
        self.nodes: list[NodeProto] = []
        self._constants: dict[str, TensorProto] = {}
        self._weights: dict[str, TensorProto] = {}
        self._fresh = 0
        self._body = ""

    def fresh(self, hint: str) -> str:
        """A value name that nothing else uses."""
        self._fresh += 1
        return self.free(f"{hint}__{self._fresh}")

    def free(self, name: str) -> str:
        """A name with underscores behind it until it is not taken."""
        return untaken(name, self._taken)

    def node(
        self, op_type: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any
    ) -> None:
        """Append a node; attributes that are ``None`` are left out."""
        proto = NodeProto(op_type=op_type, input=inputs, output=outputs, name=outputs[0])
        for key in sorted(attributes):
            if attributes[key] is not None:
                proto.attribute.append(helper.make_attribute(key, attributes[key]))
        self.nodes.append(proto)

    def constant(self, array: np.ndarray[Any, Any]) -> str:
        """Store a small array inline and return its name; equal arrays share one."""
        array = np.asarray(array, order="C")
        raw = array.tobytes()
        digest = hashlib.sha256(f"{array.dtype}{array.shape}".encode() + raw).hexdigest()[:16]
        name = self.free(f"{self._body}const_{digest}")
        if name not in self._constants:
            self._constants[name] = TensorProto(
                name=name, data_type=tensor_type(array.dtype), dims=array.shape, raw_data=raw
            )
        return name

    def loop(
        self,
        hint: str,
        trips: str,
        state: Sequence[tuple[str, np.dtype[Any]]],
        body: Callable[[str, Sequence[str]], Sequence[str]],
    ) -> list[str]:
        """Append a ``Loop`` whose body is run so many times, and changes a state.

        The body reads what it is given and its own constants, and nothing of the model around it:
        whoever renames or retypes values of the model need not look inside.

        Args:
            hint: Begins the names of its values.
            trips: How often, an int64 scalar.
            state: Names and dtypes of the values that the first run is given.
            body: Appends the nodes of the body, given the names of the number of the run (an int64
                scalar that counts from 0) and of the state, and returns the names of the next
                state, of the same dtypes.

        Returns:
            Names of the state after the last run.

        Raises:
            ValueError: The body reads something else.
        """
        number, going, still = (self.fresh(f"{hint}_{part}") for part in ("run", "going", "still"))
        given = [self.fresh(f"{hint}_given") for _ in state]
        outside = self.nodes, self._constants, self._body
        self.nodes, self._constants, self._body = [], {}, f"{self.fresh(hint)}_"
        try:
            following = list(body(number, given))
            self.node("Identity", [going], [still])
            for place, name in enumerate(following):
                if name in given:  # ONNX Runtime wants a node between an input and an output
                    following[place] = self.fresh(f"{hint}_same")
                    self.node("Identity", [name], [following[place]])
            constants = [_constant(tensor) for tensor in self._constants.values()]
            nodes = [*constants, *self.nodes]
        finally:
            self.nodes, self._constants, self._body = outside
        known = {number, going, *given, *(name for node in nodes for name in node.output), ""}
        if foreign := {name for node in nodes for name in node.input} - known:
            raise ValueError(f"the body of {hint} reads {sorted(foreign)}, which it is not given")
        counter, condition = np.dtype(np.int64), np.dtype(np.bool_)
        dtypes = [dtype for _, dtype in state]
        graph = GraphProto(
            name=f"{hint}_body",
            node=nodes,
            input=[
                _value(number, [], counter),
                _value(going, [], condition),
                *(_of_any_shape(*value) for value in zip(given, dtypes, strict=True)),
            ],
            output=[
                _value(still, [], condition),
                *(_of_any_shape(*value) for value in zip(following, dtypes, strict=True)),
            ],
        )
        results = [self.fresh(f"{hint}_loop") for _ in state]
        self.node("Loop", [trips, "", *(name for name, _ in state)], results, body=graph)
        return results

    def weight(self, name: str, shape: Sequence[int], dtype: np.dtype[Any]) -> None:
        """Declare a weight whose bytes the engine is given by pointer."""
        proto = TensorProto(name=name, data_type=tensor_type(dtype), dims=shape)
        proto.data_location = TensorProto.EXTERNAL
        proto.external_data.add(key="location", value="mxnet")
        self._weights[name] = proto

    def model(
        self,
        inputs: Sequence[tuple[str, Sequence[int | str], np.dtype[Any]]],
        outputs: Sequence[tuple[str, Sequence[int | str], np.dtype[Any]]],
        name: str = "segment",
    ) -> ModelProto:
        """The finished model, of set ``OPSET`` unless one of its nodes needs a later one.

        Args:
            inputs: Name, dimensions (integers or symbols) and dtype of every input.
            outputs: The same of every output.
            name: Name of the ONNX graph.
        """
        later = [_LATER[node.op_type] for node in self.nodes if node.op_type in _LATER]
        opset, ir_version = max(later, default=(OPSET, IR_VERSION))
        if opset > OPSET:
            self._modernize()
        graph = GraphProto(
            name=name,
            node=self.nodes,
            initializer=[*self._constants.values(), *self._weights.values()],
            input=[_value(*value) for value in inputs],
            output=[_value(*value) for value in outputs],
        )
        model = ModelProto(ir_version=ir_version, producer_name="mxtrt", graph=graph)
        model.opset_import.add(domain="", version=opset)
        return model

    def _modernize(self) -> None:
        """Write the nodes as set 18 and later have them."""
        for node in self.nodes:
            if node.op_type == "Split" and len(node.input) == 1:
                node.attribute.append(helper.make_attribute("num_outputs", len(node.output)))
            if node.op_type in _REDUCTIONS:
                kept = [given for given in node.attribute if given.name != "axes"]
                axes = [tuple(given.ints) for given in node.attribute if given.name == "axes"]
                del node.attribute[:]
                node.attribute.extend(kept)
                node.input.extend(self.constant(np.array(given, np.int64)) for given in axes)


def _value(name: str, dims: Sequence[int | str], dtype: np.dtype[Any]) -> Any:
    return helper.make_tensor_value_info(name, tensor_type(dtype), list(dims))


def _of_any_shape(name: str, dtype: np.dtype[Any]) -> Any:
    return helper.make_tensor_value_info(name, tensor_type(dtype), None)


def _constant(tensor: TensorProto) -> NodeProto:
    """A constant as a node."""
    return helper.make_node("Constant", [], [tensor.name], tensor.name, value=tensor)
