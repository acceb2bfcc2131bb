"""Speed on a GPU: plain MXNet, mxtrt and bare TensorRT on the same engine, in one run.

``nox -s bench_tables -- --gpu``.  Figures to read; bare TensorRT is ``execute_async_v3`` and a
wait for its stream, with the data on the GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import mxnet as mx
import numpy as np
import pytest
from bench.harness import executor_of
from support.bare_tensorrt import Bare, medians
from support.process import run
from support.zoo import network

import mxtrt
from mxtrt.engines.tensorrt import tensorrt
from mxtrt.errors import MxtrtError
from mxtrt.node import library


@pytest.fixture(autouse=True)
def gpu(request: pytest.FixtureRequest, engine_cache: str) -> Iterator[str]:
    """A GPU that TensorRT uses; yields its cache of engines."""
    if not request.config.getoption("--gpu"):
        pytest.skip("for a machine with a GPU: nox -s bench_tables -- --gpu")
    try:
        tensorrt()
    except MxtrtError as reason:
        pytest.skip(str(reason))
    with mxtrt.options(enabled=False, engine="tensorrt", cache_dir=engine_cache):
        yield engine_cache


def on(device: mx.context.Context, name: str, x: Any) -> Any:
    """A network of the zoo on a device."""
    net = network(name, x)
    net.collect_params().reset_ctx(device)
    return net


def gluon_call(net: Any, x: Any, static: bool) -> Callable[[], object]:
    """A call of a hybridized network."""
    net.hybridize(static_alloc=static, static_shape=static)
    net(x).wait_to_read()
    return lambda: net(x).wait_to_read()


@pytest.mark.parametrize("precision", ["fp32", "tf32"])
@pytest.mark.parametrize("name", ["resnet50_v1", "resnet18_v1", "mobilenet1.0"])
def test_speed_beside_plain_mxnet_and_bare_tensorrt(name, precision, table, built):
    """Batch 1, from a call until its result is there; the executor's output stays on the GPU."""
    x = mx.nd.random.uniform(-1, 1, shape=(1, 3, 224, 224))
    calls: dict[str, Callable[[], object]] = {}
    keep = []
    devices = [mx.cpu(), mx.gpu()] if mx.context.num_gpus() else [mx.cpu()]
    for device in devices:
        there = mx.nd.array(x.asnumpy(), ctx=device)
        place = device.device_type
        with mxtrt.options(precision=precision):
            net = on(device, name, x)
            executor = executor_of(net, there)
            keep.append(executor)
            calls[f"executor {place}"] = lambda e=executor: e.forward()[0].wait_to_read()
            calls[f"static {place}"] = gluon_call(net, there, True)
            if place == "gpu":
                calls["hybrid gpu"] = gluon_call(on(device, name, x), there, False)
        assert mxtrt.last_report().engine.startswith("tensorrt ")
        if place == "gpu":  # last: where MXNet's kernels are missing, it leaves CUDA errors behind
            calls["plain gpu"] = gluon_call(on(device, name, x), there, True)
    calls["bare"] = Bare(*built[-1])
    found = medians(calls)
    table(
        "batch 1, us",
        network=name,
        precision=precision,
        **{key: f"{found[key]:.0f}" for key in sorted(found, key=lambda k: (k != "bare", k))},
    )


def test_what_one_node_costs(table, built):
    """The floor: a network of one activation of four numbers."""
    if not mx.context.num_gpus():
        pytest.skip("this MXNet has no GPU code")
    there = mx.nd.array(np.arange(4.0), ctx=mx.gpu())
    symbol = mx.sym.Activation(mx.sym.var("data"), act_type="tanh")
    calls = {}
    for title, options in {
        "plain": {"enabled": False},
        "engine, calling thread": {},
        "engine, MXNet's thread": {"inline_below": 0},
    }.items():
        with mxtrt.options(**options):
            executor = symbol.bind(mx.gpu(), {"data": there}, grad_req="null")
        calls[title] = lambda e=executor: e.forward()[0].wait_to_read()
    calls["bare"] = Bare(*built[-1])
    table("one node on mx.gpu(), us", **{k: f"{v:.1f}" for k, v in medians(calls).items()})


MEMORY = """
    import sys, time
    import mxtrt, mxnet as mx, numpy as np
    from mxnet.gluon.model_zoo import vision
    from mxtrt.node import library
    name, batch, enabled = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "1"
    net = vision.get_model(name)
    net.collect_params().setattr("grad_req", "null")
    net.initialize(mx.init.MSRAPrelu(slope=0.0))
    x = mx.nd.random.uniform(shape=(batch, 3, 224, 224))
    net(x).wait_to_read()
    net.collect_params().reset_ctx(mx.gpu())
    x = mx.nd.array(x.asnumpy(), ctx=mx.gpu())
    net.hybridize(static_alloc=True, static_shape=True)
    begin = time.perf_counter()
    with mxtrt.options(enabled=enabled):
        net(x).wait_to_read()
    first = time.perf_counter() - begin
    for _ in range(5):
        net(x).wait_to_read()
    mx.nd.waitall()
    if enabled:
        report = mxtrt.last_report()
        assert report.left == [] and not report.reason, report
        print(mxtrt.memory(), file=sys.stderr)
    mx.gpu().empty_cache()
    memory = library().cuda.memory()
    print((memory.total - memory.free) / 2**20, first)
"""


@pytest.mark.parametrize("batch", [1, 32])
@pytest.mark.parametrize("name", ["resnet50_v1", "mobilenet1.0"])
def test_gpu_memory_and_second_start(name, batch, table, gpu):
    """All that a process has on the GPU, context and libraries included."""
    if not mx.context.num_gpus():
        pytest.skip("this MXNet has no GPU code")
    variables = {
        "MXTRT_ENGINE": "tensorrt",
        "MXTRT_CACHE_DIR": gpu,
        "MXNET_CUDNN_AUTOTUNE_DEFAULT": "0",
    }
    before = library().cuda.memory()
    others = (before.total - before.free) / 2**20
    seen = {}
    for title, enabled in {"plain": "0", "cold": "1", "warm": "1"}.items():
        script = MEMORY.replace("sys.argv[1]", repr(name)).replace("sys.argv[2]", repr(batch))
        done = run(script.replace("sys.argv[3]", repr(enabled)), **variables)
        assert done.returncode == 0, done.stderr
        print(done.stderr[-4000:])
        seen[title] = done.stdout.split()
    table(
        "GPU memory in use, and first answer",
        network=name,
        batch=batch,
        plain=f"{float(seen['plain'][0]) - others:.0f} MiB",
        mxtrt=f"{float(seen['warm'][0]) - others:.0f} MiB",
        cold_start=f"{float(seen['cold'][1]):.2f} s",
        warm_start=f"{float(seen['warm'][1]):.2f} s",
    )
