"""Suite ``networks``: all networks of the model zoo, one picture each; not part of the gate."""

from __future__ import annotations

import pytest
from bench.harness import Bench, zoo_network
from support.networks import ZOO


@pytest.mark.parametrize("name", ZOO)
def test_a_network_alone(name: str, bench: Bench) -> None:
    """A forward, from the call until the result is there."""
    title = f"networks/{name}/1"
    bench.wanted(title)
    plain, ours = zoo_network(bench, name, 1)
    bench(title, plain, ours)
