"""Suite ``zoo``: networks of the model zoo, hybridized with static memory."""

from __future__ import annotations

import mxnet as mx
import pytest
from bench.harness import Bench, both
from mxnet.gluon.model_zoo import vision

NETWORKS = (
    "resnet18_v1",
    "resnet50_v1",
    "mobilenet1.0",
    "squeezenet1.0",
    "densenet121",
    "inceptionv3",
    "vgg16",
)
QUICK = {("resnet18_v1", 1), ("mobilenet1.0", 1), ("squeezenet1.0", 1)}
#: Batches of these take plain MXNet seconds on a small CPU: their intervals get more time.
SLOW_BATCHES = {"densenet121", "inceptionv3", "resnet50_v1", "vgg16"}


@pytest.mark.parametrize("batch", [1, 16])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_of_the_zoo(name: str, batch: int, bench: Bench) -> None:
    """A forward, from the call until the result is there."""
    title = f"zoo/{name}/{batch}"
    bench.wanted(title)
    if bench.settings.quick and (name, batch) not in QUICK:
        pytest.skip("not in --quick")
    size = 299 if name == "inceptionv3" else 224
    context = bench.settings.context
    x = mx.nd.random.uniform(-1, 1, shape=(batch, 3, size, size), ctx=context)

    def make() -> mx.gluon.HybridBlock:
        mx.random.seed(1)
        net = vision.get_model(name)
        net.collect_params().setattr("grad_req", "null")
        net.initialize(mx.init.MSRAPrelu(slope=0.0), ctx=context)
        return net

    plain, ours = both(bench, make, x)
    bench(title, plain, ours)
