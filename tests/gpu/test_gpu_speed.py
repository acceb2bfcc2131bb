"""Speed on a GPU beside bare TensorRT on the same engine: figures to read."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon.model_zoo import vision

import mxtrt
from mxtrt.node import library

pytestmark = pytest.mark.slow


def microseconds(call: Callable[[], object], count: int = 300) -> float:
    """Median time of a call."""
    for _ in range(30):
        call()
    times = []
    for _ in range(count):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return float(np.median(times)) * 1e6


@pytest.mark.parametrize("precision", ["fp32", "tf32"])
@pytest.mark.parametrize("name", ["resnet50_v1", "resnet18_v1", "mobilenet1.0"])
def test_speed_beside_bare_tensorrt(
    name: str, precision: str, table: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bare: enqueue and wait, data already on the GPU.  mxtrt: from host array to host array."""
    bare: dict[str, Any] = {}
    create = library().create_cuda_session

    def spy(
        inputs: Sequence[int],
        outputs: Sequence[int],
        enqueue: Callable[[Sequence[int], int], None],
        owned: Any,
    ) -> int:
        def remember(addresses: Sequence[int], stream: int) -> None:
            bare["stream"] = stream
            enqueue(addresses, stream)

        bare["context"] = owned[1]
        bare["handle"] = create(inputs, outputs, remember, owned)
        return bare["handle"]

    monkeypatch.setattr(library(), "create_cuda_session", spy)
    x = mx.nd.random.uniform(shape=(1, 3, 224, 224))
    symbol = vision.get_model(name)(mx.sym.var("data"))
    arguments, _, states = symbol.infer_shape(data=x.shape)
    args = {
        n: mx.nd.random.uniform(-0.05, 0.05, shape=s)
        for n, s in zip(symbol.list_arguments(), arguments, strict=True)
    }
    aux = {n: mx.nd.ones(s) for n, s in zip(symbol.list_auxiliary_states(), states, strict=True)}

    def bind() -> tuple[Any, float]:
        begin = time.perf_counter()
        with mxtrt.options(precision=precision):
            executor = symbol.bind(mx.cpu(), {**args, "data": x.copy()}, aux_states=aux)
        executor.forward(data=x)[0].wait_to_read()
        return executor, time.perf_counter() - begin

    executor, cold = bind()
    executor, warm = bind()
    net = mx.gluon.SymbolBlock(symbol, mx.sym.var("data"))
    for key, parameter in net.collect_params().items():
        parameter._load_init({**args, **aux}[key], mx.cpu())
    net.hybridize(static_alloc=True, static_shape=True)
    with mxtrt.options(precision=precision):
        net(x).wait_to_read()
    lib, context = library()._lib, bare["context"]

    def enqueue_and_wait() -> None:
        context.execute_async_v3(bare["stream"])
        lib.mxtrt_cuda_wait(bare["handle"])

    table(
        "beside bare TensorRT, batch 1, us",
        network=name,
        precision=precision,
        bare=f"{microseconds(enqueue_and_wait):.0f}",
        executor=f"{microseconds(lambda: executor.forward()[0].wait_to_read()):.0f}",
        gluon=f"{microseconds(lambda: net(x).wait_to_read()):.0f}",
        cold_bind=f"{cold:.1f} s",
        warm_bind=f"{warm:.2f} s",
    )
    assert mxtrt.last_report().engine.startswith("tensorrt ")
