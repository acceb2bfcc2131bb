"""Precisions in TensorRT: accuracy, and speed beside bare TensorRT.

``pytest tests/gpu/test_gpu_precision.py -s`` prints tables; ``-k accuracy``, ``-k speed`` or
``-k underflow`` runs a part.  Every engine is built once, in a minute at most;
``--engine-cache DIR`` keeps them for another run.
"""

from __future__ import annotations

from typing import Any

import mxnet as mx
import numpy as np
import pytest
from support.bare_tensorrt import Bare, medians

import mxtrt


def bound(net: Any, x: Any, **options: Any) -> Any:
    """What calls a network whose engines are built; nothing of it stays in MXNet."""
    with mxtrt.options(**options):
        net.hybridize(static_alloc=True, static_shape=True)
        net(x).wait_to_read()
    report = mxtrt.last_report()
    assert report.engine.startswith("tensorrt ")
    assert not report.reason
    assert not report.left
    return lambda: net(x)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", ["lenet", "small_resnet"])
def test_accuracy_is_kept(name, seed, table, tmp_path):
    """int8 within half a point, float16 within a tenth."""
    pytest.importorskip("sklearn")
    from support import digits

    data, path = digits.digits(seed), tmp_path / "ranges.json"
    net = digits.trained(getattr(digits, name)(), data, 12 if name == "lenet" else 6, seed)
    expected = net(data.test).asnumpy().argmax(1)
    plain = float((expected == data.test_labels).mean() * 100)
    row, worst = {"plain": f"{plain:.2f}"}, {}
    mxtrt.calibrate(net, [data.train[i : i + 64] for i in range(0, 512, 64)], out=path)
    for precision, points in (("fp32", 0.01), ("tf32", 0.1), ("fp16", 0.1), ("int8", 0.5)):
        call = bound(net, data.test, precision=precision, ranges=path)
        classes = call().asnumpy().argmax(1)
        accuracy = float((classes == data.test_labels).mean() * 100)
        row[precision] = f"{accuracy:.2f} ({(classes == expected).mean():.2%})"
        worst[precision] = plain - accuracy - points
    table("accuracy in percent (agreement)", network=name, seed=seed, **row)
    assert all(excess <= 1e-9 for excess in worst.values()), row


def zoo(name: str, x: Any) -> Any:
    """A network of the zoo with He weights, on the device of its data."""
    mx.random.seed(0)
    net = mx.gluon.model_zoo.vision.get_model(name)
    net.collect_params().setattr("grad_req", "null")
    net.initialize(mx.init.MSRAPrelu(slope=0.0))
    net(mx.nd.array(x.asnumpy()[:1])).wait_to_read()
    net.collect_params().reset_ctx(x.context)
    return net


@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16", "int8"])
@pytest.mark.parametrize("batch", [1, 32])
def test_speed_beside_bare_tensorrt(batch, precision, table, built, tmp_path):
    """resnet50_v1, from a call until its result is there; figures to read."""
    device = mx.gpu() if mx.context.num_gpus() else mx.cpu()
    host = mx.nd.random.uniform(-1, 1, shape=(batch, 3, 224, 224))
    x, path = mx.nd.array(host.asnumpy(), ctx=device), tmp_path / "ranges.json"
    if precision == "int8":
        mxtrt.calibrate(zoo("resnet50_v1", host), [host[:8]], out=path)
    expected = zoo("resnet50_v1", host)(host).asnumpy()
    call = bound(zoo("resnet50_v1", x), x, precision=precision, ranges=path)
    error = np.abs(call().asnumpy() - expected).max() / np.abs(expected).max()
    calls = {"mxtrt": lambda: call().wait_to_read(), "bare": Bare(*built[-1])}
    found = medians(calls)
    table(
        f"resnet50_v1 on {device}, us",
        batch=batch,
        precision=precision,
        **{name: f"{time:.0f}" for name, time in found.items()},
        error=f"{error:.1e}",
    )
    assert error < {"fp32": 1e-4, "tf32": 1e-2, "fp16": 2e-2, "int8": 0.2}[precision]


def test_an_underflow_is_handled(table):
    """mobilenet1.0 with He weights: all of its logits would vanish in float16."""
    x = mx.nd.random.uniform(-1, 1, shape=(1, 3, 224, 224))
    net = zoo("mobilenet1.0", x)
    expected = net(x).asnumpy()
    seen = bound(net, x, precision="fp16")().asnumpy()
    error = np.abs(seen - expected).max() / np.abs(expected).max()
    notes = [note for segment in mxtrt.last_report().segments for note in segment.notes]
    table("mobilenet1.0 in fp16", error=f"{error:.1e}", notes="; ".join(notes))
    assert error < 2e-2
