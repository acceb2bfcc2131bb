"""Small cases, and a worker process that the tests of this folder share."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from mxtrt.graph.symbol import Entry
from mxtrt_fuzz.execute import Setup
from mxtrt_fuzz.graphs import Case, Operation, Tensor, Variable
from mxtrt_fuzz.worker import Worker


@pytest.fixture(scope="session")
def worker() -> Iterator[Worker]:
    """A process that runs cases under all masks."""
    with Worker(Setup()) as process:
        yield process


def chain(*operators: str | tuple[str, dict[str, str]], shape: tuple[int, ...] = (2, 3)) -> Case:
    """Operators of one input, one after the other, that keep the shape."""
    nodes: list[Variable | Operation] = [Variable("data0", Tensor(shape))]
    for place, given in enumerate(operators):
        op, attrs = (given, {}) if isinstance(given, str) else given
        items = tuple(sorted(attrs.items()))
        nodes.append(Operation(op, f"op{place}", items, (Entry(place),), (Tensor(shape),)))
    return Case(tuple(nodes), (Entry(len(nodes) - 1),))


@pytest.fixture
def make_chain() -> Callable[..., Case]:
    """:func:`chain`."""
    return chain
