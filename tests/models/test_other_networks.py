"""Whole networks beyond MXNet's zoo, with random weights, against plain MXNet.

The symbols are those that ``export.py`` writes.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
import pytest

import mxtrt
from mxtrt.convert.ops import registry

#: Height and width of the data, small ones where the network takes any.
SIZES = {
    "mobilenetv3_large": (224, 224),
    "resnest14": (224, 224),
    "efficientnet_b0": (224, 224),
    "ssd_300_vgg16_atrous_voc": (300, 300),
    "yolo3_darknet53_coco": (160, 128),
    "fcn_resnet50_ade": (104, 120),
    "psp_resnet50_ade": (104, 104),
    "simple_pose_resnet18_v1b": (256, 192),
    "center_net_resnet18_v1b_voc": (128, 160),
}
#: Shapes of the data of forecasters: 48 hours back and 24 forward, five features of an hour.
SERIES = {
    "gluonts_feedforward": {"past_target": (3, 48)},
    "gluonts_mqcnn": {
        "past_target": (3, 48, 1),
        "past_features": (3, 48, 5),
        "future_features": (3, 48, 24, 5),
        "category": (3, 1),
        "observed": (3, 48, 1),
    },
}
NAMES = [*SIZES, *SERIES, "bert_12_768_12"]
QUICK = {"mobilenetv3_large", "resnest14", "simple_pose_resnet18_v1b", *SERIES}
#: Operators that begin a list of detections.
LISTS = {"_contrib_box_nms", "topk"}

Arrays = dict[str, mx.nd.NDArray]


def inputs(name: str) -> Arrays:
    """Two pictures, three series, or two sentences of which the second is shorter."""
    if name in SIZES:
        return {"data": mx.nd.random.uniform(-1, 1, shape=(2, 3, *SIZES[name]))}
    if name in SERIES:
        series = {n: mx.nd.random.uniform(0.1, 9, shape=s) for n, s in SERIES[name].items()}
        whole = {n: mx.nd.floor(series[n] / 9) for n in ("category", "observed") if n in series}
        return {**series, **whole}
    words = mx.nd.random.randint(0, 1000, shape=(2, 24)).astype("float32")
    return {"words": words, "types": words < 300, "lengths": mx.nd.array([24, 17])}


def network(name: str) -> dict[str, Any]:
    """A network as symbol JSON."""
    path = Path(__file__).parent / f"{name}-symbol.json.gz"
    found: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes()))
    return found


def before_lists(net: dict[str, Any]) -> mx.sym.Symbol:
    """A network up to its list of detections, whose order is a matter of rounding."""
    nodes = net["nodes"]
    behind: set[int] = set()
    read = [tuple(head[:2]) for head in net["heads"]]
    for index, node in enumerate(nodes):
        if node["op"] in LISTS or any(entry[0] in behind for entry in node["inputs"]):
            behind.add(index)
            read += [tuple(entry[:2]) for entry in node["inputs"]]
    heads = [e for e in dict.fromkeys(read) if e[0] not in behind and nodes[e[0]]["op"] != "null"]
    return mx.sym.load_json(json.dumps({**net, "heads": [[*head, 0] for head in heads]}))


def parameters(net: dict[str, Any], data: Arrays) -> tuple[Arrays, Arrays]:
    """He weights and the statistics of a batch, with which activations keep their scale."""
    symbol = before_lists(net)
    random = np.random.default_rng(1)
    shapes, _, states = symbol.infer_shape(**shapes_of(data))
    args: Arrays = {}
    for name, shape in zip(symbol.list_arguments(), shapes, strict=True):
        if name.endswith("weight"):
            values = random.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
        elif name.endswith("gamma"):  # branches add little, as in trained networks: large ones
            # carry so many rounding errors on that MXNet is 4e-5 off what float64 gives
            values = random.uniform(0.1, 0.4, shape)
        else:  # biases, and the anchors of detectors
            values = random.uniform(0, 0.5, shape)
        args[name] = mx.nd.array(values, dtype=np.float32)
    args |= data
    names = zip(symbol.list_auxiliary_states(), states, strict=True)
    aux: Arrays = {name: mx.nd.zeros(shape) for name, shape in names}
    if aux:
        take_statistics(net, args, aux, next(iter(data)))
    return args, aux


def shapes_of(arrays: Arrays) -> dict[str, tuple[int, ...]]:
    """Shapes by name."""
    return {name: array.shape for name, array in arrays.items()}


def take_statistics(net: dict[str, Any], args: Arrays, aux: Arrays, data: str) -> None:
    """The mean and variance of every BatchNorm's input; MXNet updates them at a backward."""
    nodes = [dict(node) for node in net["nodes"]]
    norms = [index for index, node in enumerate(nodes) if node["op"] == "BatchNorm"]
    for index in norms:
        nodes[index]["attrs"] = {**nodes[index]["attrs"], "momentum": "0"}
    heads = [[index, 0, 0] for index in norms]
    symbol = mx.sym.load_json(json.dumps({**net, "nodes": nodes, "heads": heads}))
    taken = {name: args[name] for name in symbol.list_arguments()}
    kept = {name: "write" if name == data else "null" for name in taken}
    gradient = {data: mx.nd.zeros_like(args[data])}
    executor = symbol.bind(mx.cpu(), taken, args_grad=gradient, grad_req=kept, aux_states=aux)
    values = executor.forward(is_train=True)
    executor.backward([mx.nd.zeros_like(value) for value in values])
    mx.nd.waitall()  # the update counts as a read of the states
    for name, state in aux.items():
        if name.endswith("var"):  # two pictures hardly vary where all pixels are one
            state[:] = mx.nd.maximum(state, 0.01)


def outputs(symbol: mx.sym.Symbol, args: Arrays, aux: Arrays) -> list[np.ndarray[Any, Any]]:
    """What a bind computes."""
    executor = symbol.bind(mx.cpu(), args, aux_states=aux, grad_req="null")
    return [output.asnumpy() for output in executor.forward(is_train=False)]


def error(actual: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> float:
    """Largest difference, in parts of the largest expected number."""
    assert actual.shape == expected.shape
    assert np.isfinite(expected).all()
    return float(np.abs(actual - expected).max() / max(np.abs(expected).max(), 1e-30))


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in NAMES],
)
def test_networks_agree_with_plain_mxnet(name: str, table: Callable[..., None]) -> None:
    """Largest difference at most 1e-5 of the largest output; all has converters."""
    net = network(name)
    symbol, data = before_lists(net), inputs(name)
    args, aux = parameters(net, data)
    expected = outputs(symbol, args, aux)
    with mxtrt.options():
        ours = outputs(symbol, args, aux)
    assert mxtrt.last_report().segments, mxtrt.last_report()
    worst = max(error(*pair) for pair in zip(ours, expected, strict=True))
    whole = mxtrt.inspect(mx.sym.load_json(json.dumps(net)), shapes_of(data))
    left = {node.op for node in whole.left}
    table(
        "networks",
        network=name,
        nodes=whole.nodes_in_engine,
        left=len(whole.left),
        segments=len(whole.segments),
        error=f"{worst:.1e}",
        operators=", ".join(sorted(left)) or "-",
    )
    assert worst <= 1e-5
    assert left <= registry().keys() - {"_contrib_box_nms"}
