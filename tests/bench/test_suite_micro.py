"""Suite ``micro``: what a node, a boundary and a bind cost, and how analysis grows."""

from __future__ import annotations

from collections.abc import Callable

import mxnet as mx
import pytest
from bench.harness import Bench, Settings, both
from support.segments import segments_of

import mxtrt

SIZES = (50, 500, 1000, 2000, 5000)
BASE = 500


def dense(units: int, layers: int = 2) -> mx.gluon.HybridBlock:
    """Dense layers of the same size with weights that are the same at every call."""
    mx.random.seed(1)
    net = mx.gluon.nn.HybridSequential()
    for _ in range(layers):
        net.add(mx.gluon.nn.Dense(units, activation="relu", in_units=units))
    net.collect_params().setattr("grad_req", "null")
    return net


def initialized(bench: Bench, units: int, layers: int = 2) -> mx.gluon.HybridBlock:
    """Dense layers with weights."""
    net = dense(units, layers)
    net.initialize(mx.init.Uniform(0.1), ctx=bench.settings.context)
    return net


def chain(nodes: int) -> mx.sym.Symbol:
    """A graph of so many operator nodes, residual units of five."""
    x = mx.sym.var("data")
    for unit in range(nodes // 5):
        y = mx.sym.Convolution(x, num_filter=4, kernel=(1, 1), name=f"conv{unit}")
        y = mx.sym.BatchNorm(y, name=f"norm{unit}")
        y = mx.sym.Activation(y, act_type="relu", name=f"relu{unit}")
        y = y * 0.5
        x = mx.sym.elemwise_add(x, y, name=f"add{unit}")
    return x


@pytest.mark.parametrize("inline", [True, False])
def test_what_a_node_costs(inline: bool, bench: Bench) -> None:
    """A tiny network, next to no arithmetic, on the calling thread or on MXNet's."""
    title = f"micro/node/{'inline' if inline else 'engine'}"
    bench.wanted(title)
    x = mx.nd.random.uniform(shape=(1, 16), ctx=bench.settings.context)
    options = {} if inline else {"inline_below": 0}
    plain, ours = both(bench, lambda: initialized(bench, 16), x, **options)
    bench(title, plain, ours)


@pytest.mark.parametrize("kibibytes", [4, 1024])
def test_what_a_boundary_costs(kibibytes: int, bench: Bench) -> None:
    """Two segments around an operator of MXNet's, with a tensor of this size between them."""
    title = f"micro/boundary/{kibibytes}KiB"
    bench.wanted(title)
    x = mx.nd.random.uniform(shape=(kibibytes, 256), ctx=bench.settings.context)

    def make() -> mx.gluon.HybridBlock:
        data = mx.sym.var("data")
        first = mx.sym.tanh(mx.sym.sigmoid(data))
        middle = mx.sym.relu(first, name="middle")
        return mx.gluon.SymbolBlock(mx.sym.tanh(mx.sym.sigmoid(middle)), data)

    plain, ours = both(bench, make, x, deny_ops="relu", allow_ops="*")
    bench(title, plain, ours)


@pytest.mark.parametrize("warm", [False, True])
def test_what_a_bind_costs(warm: bool, bench: Bench) -> None:
    """Bind and first forward of a network of 12 layers; warm: again, for a block that was bound."""
    title = f"micro/bind/{'warm' if warm else 'cold'}"
    bench.wanted(title)
    x = mx.nd.random.uniform(shape=(1, 256), ctx=bench.settings.context)

    def binder(enabled: bool) -> Callable[[], None]:
        net = initialized(bench, 256, layers=12)

        def bind() -> None:
            block = net if warm else initialized(bench, 256, layers=12)
            block.hybridize(static_alloc=True, static_shape=True)
            with mxtrt.options(enabled=enabled):
                block(x).wait_to_read()

        return bind

    plain, ours = binder(False), binder(True)
    with bench.binding():
        ours()
    bench(title, plain, ours)


@pytest.fixture
def on_cpu(settings: Settings) -> None:
    """Skip what says nothing of a GPU."""
    if settings.gpu:
        pytest.skip("nothing of it runs on a GPU")


def converter(nodes: int) -> Callable[[], None]:
    """From the symbol of a chain to its ONNX, nothing built."""
    symbol = chain(nodes)

    def convert() -> None:
        (segment,) = segments_of(symbol, {"data": (1, 4, 8, 8)})
        assert segment.model

    return convert


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("nodes", SIZES)
def test_partition_and_convert(nodes: int, bench: Bench) -> None:
    """From symbol to ONNX, against MXNet's own inference of all shapes in the symbol."""
    title = f"micro/convert/{nodes}"
    bench.wanted(title)
    internals = chain(nodes).get_internals()

    def plain() -> None:
        internals.infer_shape_partial(data=(1, 4, 8, 8))
        internals.tojson()

    bench(title, plain, converter(nodes), nodes=nodes)


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("nodes", [size for size in SIZES if size > BASE])
def test_partition_and_convert_grow_with_the_graph(
    nodes: int, bench: Bench, table: Callable[..., None]
) -> None:
    """One large graph against as many nodes in graphs of 500: 1 if time per node is flat.

    The goal is at least 1 / 2: Python's garbage collector goes through more, the more there is.
    """
    title = f"micro/growth/{nodes}"
    bench.wanted(title)
    small = converter(BASE)

    def plain() -> None:
        for _ in range(nodes // BASE):
            small()

    found = bench(title, plain, converter(nodes), nodes=nodes)
    if found.paired is not None:
        table(
            "time per node, from symbol to ONNX",
            nodes=nodes,
            per_node=f"{found.paired.mxtrt_ms / nodes * 1e3:.0f} us",
            in_graphs_of_500=f"{found.paired.plain_ms / nodes * 1e3:.0f} us",
            growth=f"{1 / found.paired.ratio:.2f}",
        )
