"""An engine on the CPU that has to be built for shapes as TensorRT has to, and what it runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import mxtrt
from mxtrt.engines import BuildRequest, Session
from mxtrt.engines.onnxruntime import OnnxRuntime
from mxtrt.engines.ranges import Ranges
from mxtrt.errors import EngineError
from mxtrt.graph.symbol import Shapes
from mxtrt.plan.plan import live_plans
from support.networks import assert_close


class Ranged:
    """ONNX Runtime as an engine of static shapes that takes ranges, from now on.

    Args:
        monkeypatch: Makes it so for a test.

    Attributes:
        requests: What was built, in order.
        refuses: Why an engine is not built for a request, None where it is.
        changes: What is built in place of a request.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.requests: list[BuildRequest] = []
        self.refuses: Callable[[BuildRequest], str | None] = lambda request: None
        self.changes: Callable[[BuildRequest], BuildRequest] = lambda request: request
        original = OnnxRuntime.build

        def build(engine: Any, request: BuildRequest) -> Session:
            if said := self.refuses(request):
                raise EngineError(said)
            self.requests.append(request)
            return original(engine, self.changes(request))

        monkeypatch.setattr(OnnxRuntime, "static_shapes", True)
        monkeypatch.setattr(OnnxRuntime, "takes_ranges", True)
        monkeypatch.setattr(OnnxRuntime, "build", build)

    @property
    def ranges(self) -> list[Ranges | None]:
        """The ranges of what was built."""
        return [request.ranges for request in self.requests]

    @property
    def shapes(self) -> list[Shapes]:
        """The shapes that engines were built at."""
        return [tuple(t.shape or () for t in request.inputs) for request in self.requests]


class Net:
    """A hybridized block, and its answers in plain MXNet.

    Args:
        symbol: The block's symbol.
        folder: Where engines are kept.
        options: Of the binds.
    """

    def __init__(self, symbol: Any, folder: Path, *names: str, **options: Any) -> None:
        self.options = {"cache_dir": str(folder), **options}
        names = names or ("data",)
        inputs = [mx.sym.var(name) for name in names]
        mx.random.seed(3, ctx=mx.cpu())
        self.plain = mx.gluon.SymbolBlock(symbol, inputs)
        self.plain.initialize(mx.init.Uniform(0.3))
        self.net = mx.gluon.SymbolBlock(symbol, inputs, self.plain.collect_params())
        self.net.hybridize()

    def is_right(self, *shapes: tuple[int, ...]) -> None:
        """Whether the answer at input shapes is MXNet's."""
        given = [mx.nd.array(np.random.RandomState(0).rand(*shape)) for shape in shapes]
        with mxtrt.options(enabled=False):
            expected = self.plain(*given)
        mx.nd.waitall()  # writes to weights are done
        with mxtrt.options(**self.options):
            assert_close(self.net(*given), expected)

    @property
    def node(self) -> Any:
        """Its engine node."""
        plan = next(p for p in live_plans() if p.options.cache_dir == self.options["cache_dir"])
        (node,) = plan.nodes
        return node


DATA = mx.sym.var("data")


def pictures() -> Any:
    """A network for pictures of any size."""
    x = mx.sym.Convolution(DATA, kernel=(3, 3), num_filter=4, stride=(2, 2), name="one")
    x = mx.sym.Activation(x, act_type="relu")
    x = mx.sym.Convolution(x, kernel=(3, 3), num_filter=4, name="two")
    return mx.sym.FullyConnected(
        mx.sym.Pooling(x, global_pool=True, pool_type="avg"), num_hidden=3, name="dense"
    )


def texts() -> Any:
    """A network for texts of any length, which writes the length into its model."""
    x = mx.sym.FullyConnected(DATA, num_hidden=8, flatten=False, name="dense")
    places = mx.sym.reshape(mx.sym.contrib.arange_like(x, axis=1), shape=(1, -1, 1))
    return mx.sym.broadcast_add(x, places)


def rounding_up(request: BuildRequest, axis: int) -> BuildRequest:
    """The request, for an engine for ranges with an answer that is wrong at some sizes.

    They are those that are no multiples of 16, as for TensorRT's kernels that take 16 at a time.

    Args:
        request: What to build.
        axis: The axis of the first input that is of these sizes.
    """
    if request.ranges is None:
        return request
    model = onnx.load_model_from_string(request.segment.model)
    graph, (answer, *_) = model.graph, request.segment.outputs
    for node in graph.node:
        node.output[:] = ["right" if name == answer else name for name in node.output]
        node.input[:] = ["right" if name == answer else name for name in node.input]
    numbers = {"axis": np.array([axis]), "width": np.array([16]), "part": np.float32([-0.5])}
    numbers["one"] = np.float32([1])
    graph.initializer.extend(numpy_helper.from_array(one, name) for name, one in numbers.items())
    graph.node.extend(
        helper.make_node(kind, inputs, [output], **attributes)
        for kind, inputs, output, attributes in (
            ("Shape", [request.segment.inputs[0]], "sizes", {}),
            ("Gather", ["sizes", "axis"], "size", {}),
            ("Mod", ["size", "width"], "rest", {}),
            ("Cast", ["rest"], "left", {"to": onnx.TensorProto.FLOAT}),
            ("Sign", ["left"], "open", {}),
            ("Mul", ["open", "part"], "less", {}),
            ("Add", ["less", "one"], "factor", {}),
            ("Mul", ["right", "factor"], answer, {}),
        )
    )
    segment = dataclasses.replace(request.segment, model=model.SerializeToString())
    return dataclasses.replace(request, segment=segment)
