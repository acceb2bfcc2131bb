"""Every network of gluon's model zoo converts from the first node to the last."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from support.converters import convert_nodes, mx, typed_graph

from mxtrt.convert.onnx_builder import OnnxBuilder

NAMES = ["alexnet", "densenet121", "inceptionv3", "mobilenet1.0", "mobilenetv2_1.0"]
NAMES += ["resnet18_v1", "resnet18_v2", "resnet50_v1", "squeezenet1.0", "vgg11", "vgg11_bn"]


def _ops(name: str, batch: int) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = mx.gluon.model_zoo.vision.get_model(name, prefix=f"{name}_")
    size = 299 if name.startswith("inception") else 224
    graph = typed_graph(
        net(mx.sym.var("data")), {"data": np.empty((batch, 3, size, size), np.float32)}
    )
    builder = OnnxBuilder()
    convert_nodes(graph, builder)
    return builder.nodes


@pytest.mark.parametrize("name", NAMES)
def test_a_network_of_the_zoo_converts_completely_and_for_every_batch_size(name: str) -> None:
    """No node is refused, and the nodes are the same for batch 1 and 4."""
    first, second = (_ops(name, batch) for batch in (1, 4))
    assert [node.SerializeToString() for node in first] == [
        node.SerializeToString() for node in second
    ]
