"""TensorRT's parser takes the ONNX of every converter, over the operators' attribute spaces."""

from __future__ import annotations

from collections.abc import Iterator

import mxnet as mx
import numpy as np
import pytest
from hypothesis import given, settings

from mxtrt import config, paging
from mxtrt.engines import BuildRequest, Weight
from mxtrt.engines.tensorrt.api import Api, load_api
from mxtrt.engines.tensorrt.builder import canonical, whole_model
from mxtrt.graph import Entry, TensorType
from mxtrt.inspection import segments_of
from mxtrt.models import own_name
from mxtrt.ops import registry
from mxtrt_fuzz.generate import operator_cases
from mxtrt_fuzz.graphs import Case
from mxtrt_fuzz.values import weight_arrays

#: Dtypes that it has inside; int8 is for quantized floats, and it computes nothing in uint8.
DTYPES = {"float32", "int32", "int64"}

#: What TensorRT for RTX 1.7 refuses, in words of its own; such a node stays in MXNet.
KNOWN = (
    "ROIAlign plugin was not found",  # it is there, and needs a GPU
    "at least 2 dimensions are required for input",  # the softmax of a vector
    "does not support UINT8 types for intermediate tensors",
)


@pytest.fixture(scope="module")
def api() -> Iterator[Api]:
    """TensorRT for RTX."""
    pytest.importorskip(
        "tensorrt_rtx", reason="TensorRT for RTX is not installed: pip install '.[trt-check]'"
    )
    return load_api("tensorrt_rtx")


def models(case: Case) -> list[bytes]:
    """The ONNX of a case with its weights in it; none where the operator stays in MXNet."""
    symbol = mx.sym.load_json(case.symbol_json())
    data = {v.name: v.tensor for v in case.variables if v.role == "data"}
    tensors = [case.tensor(Entry(i)) for i in range(len(case.nodes))]
    if not {tensor.dtype for tensor in tensors} <= DTYPES:
        return []
    dtypes = {variable.name: variable.tensor.dtype for variable in case.variables}
    shapes = {name: tensor.shape for name, tensor in data.items()}
    segments = segments_of(symbol, shapes, dtypes)
    arrays = {name: mx.nd.array(a, dtype=a.dtype) for name, a in weight_arrays(case).items()}
    found = []
    for segment in segments:
        if not data.keys() >= set(segment.inputs):
            continue  # the rest of a case of which a part stays in MXNet
        request = BuildRequest(
            segment,
            [Weight(w, *paging.in_host_memory(arrays[w.name])) for w in segment.weights],
            [TensorType(data[n].shape, np.dtype(data[n].dtype)) for n in segment.inputs],
            [],
            config.current(),
        )
        found.append(whole_model(canonical(request)))
    return found


def refusal(api: Api, model: bytes) -> str:
    """What the parser says; nothing if it takes the model."""
    trt = api.trt
    builder = trt.Builder(api.logger)
    network = builder.create_network(0)  # the parser does not keep it
    parser = trt.OnnxParser(network, api.logger)
    if parser.parse(model):
        return ""
    return "; ".join(parser.get_error(place).desc() for place in range(parser.num_errors))


@pytest.mark.parametrize("name", [name for name in sorted(registry()) if own_name(name) == name])
def test_the_parser_takes_every_operator(api: Api, name: str) -> None:
    """Over its attributes; what it refuses is known."""
    parsed: list[bytes] = []

    @settings(derandomize=True, max_examples=8, deadline=None, database=None)
    @given(operator_cases(name))
    def lane(case: Case) -> None:
        for model in models(case):
            said = refusal(api, model)
            assert not said or any(part in said for part in KNOWN), said
            parsed.append(model)

    lane()
    assert parsed, "no case was converted"
