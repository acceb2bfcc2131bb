"""How TensorRT before 9, whose networks are weakly typed, is held to a model's types."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mxtrt.engines.tensorrt.builder import _pin_types, is_typed

HALF, SINGLE, INTEGER = "float16", "float32", "int32"

#: The names that mxtrt uses of TensorRT 8.5's module.
TRT = SimpleNamespace(
    float16=HALF,
    float32=SINGLE,
    BuilderFlag=SimpleNamespace(FP16="FP16", INT8="INT8", OBEY_PRECISION_CONSTRAINTS="OBEY"),
    LayerType=SimpleNamespace(CONSTANT="CONSTANT"),
)


class Layer:
    """An ``ILayer`` that remembers what it was told."""

    def __init__(self, name: str, *outputs: tuple[str, str], kind: str = "OTHER") -> None:
        self.name, self.type = name, kind
        self._outputs = [SimpleNamespace(name=name, dtype=dtype) for name, dtype in outputs]
        self.num_outputs = len(outputs)
        self.precision: str | None = None
        self.types: dict[int, str] = {}

    def get_output(self, index: int) -> Any:
        """An ``ITensor``."""
        return self._outputs[index]

    def set_output_type(self, index: int, dtype: str) -> None:
        """As TensorRT does, refuse a float type of what is an integer."""
        assert self._outputs[index].dtype != INTEGER
        self.types[index] = dtype


def pinned(model: onnx.ModelProto, *layers: Layer) -> set[str]:
    """Pin the layers; returns the builder's flags."""
    flags: set[str] = set()
    network = SimpleNamespace(num_layers=len(layers), get_layer=lambda index: layers[index])
    _pin_types(TRT, network, SimpleNamespace(set_flag=flags.add), model.SerializeToString())
    return flags


def model_of(nodes: list[Any], *, outputs: tuple[str, ...] = ("y",), **constants: Any) -> Any:
    """A model on ``x`` of shape (2, 4)."""
    for node in nodes:
        node.name = node.output[0]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def test_every_layer_of_a_node_has_the_nodes_type():
    """Those without its name too: the parser makes a product and an addition of a Gemm."""
    weight, bias = np.eye(4, dtype=np.float16), np.zeros(4, np.float16)
    model = model_of(
        [
            helper.make_node("Cast", ["x"], ["half"], to=TensorProto.FLOAT16),
            helper.make_node("Gemm", ["half", "weight", "bias"], ["dense"]),
            helper.make_node("Cast", ["dense"], ["single"], to=TensorProto.FLOAT),
            helper.make_node("Softmax", ["single"], ["y"]),
        ],
        weight=weight,
        bias=bias,
    )
    cast = Layer("half", ("half", HALF))
    constant = Layer("weight", ("weight", HALF), kind="CONSTANT")
    product = Layer("dense", ("(Unnamed Layer* 2) [Matrix Multiply]_output", SINGLE))
    shape = Layer("(Unnamed Layer* 3) [Shape]", ("(Unnamed Layer* 3)_output", INTEGER))
    addition = Layer("(Unnamed Layer* 4) [ElementWise]", ("dense", SINGLE))
    back = Layer("single", ("single", SINGLE))
    softmax = Layer("y", ("(Unnamed Layer* 6)_output", SINGLE))
    reshape = Layer("(Unnamed Layer* 7) [Shuffle]", ("y", SINGLE))
    layers = cast, constant, product, shape, addition, back, softmax, reshape
    assert pinned(model, *layers) == {"FP16", "OBEY"}
    assert {layer.precision for layer in (product, addition)} == {HALF}
    assert {layer.precision for layer in (softmax, reshape)} == {SINGLE}
    assert {layer.precision for layer in (cast, back, constant, shape)} == {None}
    assert product.types == addition.types == {0: HALF}


def test_only_the_floats_among_the_outputs_are_pinned():
    """The places of the largest elements are integers."""
    model = model_of(
        [
            helper.make_node("Cast", ["x"], ["half"], to=TensorProto.FLOAT16),
            helper.make_node("TopK", ["half", "one"], ["top", "places"]),
            helper.make_node("Cast", ["top"], ["y"], to=TensorProto.FLOAT),
        ],
        one=np.array([1]),
    )
    top = Layer("top", ("top", HALF), ("places", INTEGER))
    pinned(model, Layer("half", ("half", HALF)), top, Layer("y", ("y", SINGLE)))
    assert top.types == {0: HALF}


def quantized(after: list[Any], **constants: Any) -> Any:
    """A product in int8 and what follows it."""
    pair = [
        helper.make_node("QuantizeLinear", ["x", "step", "zero"], ["low"]),
        helper.make_node("DequantizeLinear", ["low", "step", "zero"], ["wide"]),
        helper.make_node("MatMul", ["wide", "weight"], ["product"]),
    ]
    weight = np.eye(4, dtype=np.float32)
    given = {"step": np.float32(0.1), "zero": np.int8(0), "weight": weight, **constants}
    return model_of([*pair, *after], **given)


def test_a_model_in_int8_and_float32_gets_no_float16():
    """The builder may choose what its flags name."""
    model = quantized([helper.make_node("Relu", ["product"], ["y"])])
    product, relu = Layer("product", ("product", SINGLE)), Layer("y", ("y", SINGLE))
    assert pinned(model, product, relu) == {"INT8"}
    assert product.precision is relu.precision is None


def test_a_quantized_layer_may_be_fused():
    """Of a model with float16 too: what reads DequantizeLinear has no precision of its own."""
    model = quantized(
        [
            helper.make_node("Cast", ["product"], ["half"], to=TensorProto.FLOAT16),
            helper.make_node("Tanh", ["half"], ["bent"]),
            helper.make_node("Cast", ["bent"], ["y"], to=TensorProto.FLOAT),
        ]
    )
    product = Layer("product", ("product", SINGLE))
    tanh, back = Layer("bent", ("bent", HALF)), Layer("y", ("y", SINGLE))
    assert pinned(model, product, Layer("half", ("half", HALF)), tanh, back) == {
        "INT8",
        "FP16",
        "OBEY",
    }
    assert product.precision is None
    assert tanh.precision == HALF


def test_a_model_with_a_float16_edge_says_its_types() -> None:
    """TensorRT 8.5 computed its float32 layers in float16 where it was not held to them."""

    def model(kind: int) -> bytes:
        value = helper.make_tensor_value_info
        nodes = [
            helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT),
            helper.make_node("Add", ["y", "y"], ["z"]),
        ]
        edges = [value("x", kind, [2])], [value("z", TensorProto.FLOAT, [2])]
        made: bytes = helper.make_model(helper.make_graph(nodes, "g", *edges)).SerializeToString()
        return made

    assert is_typed(model(TensorProto.FLOAT16))
    assert not is_typed(model(TensorProto.FLOAT))
