"""Suite ``zoo``: networks of the model zoo, hybridized with static memory."""

from __future__ import annotations

import pytest
from bench.harness import Bench, zoo_network

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
    bench.wanted(title, (name, batch) in QUICK)
    plain, ours = zoo_network(bench, name, batch)
    bench(title, plain, ours)
