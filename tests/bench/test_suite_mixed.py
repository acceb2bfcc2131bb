"""Suite ``mixed``: k of n operators denied to the engine, the same graph for every k."""

from __future__ import annotations

from collections.abc import Callable

import mxnet as mx
import pytest
from bench.harness import Bench, both

UNITS = 12
DENIED = (0, 1, 3, 6, 11)

_base: dict[str, float] = {}


def block(denied: int) -> mx.gluon.HybridBlock:
    """Units of a convolution and an activation, of which the first ``denied`` stay in MXNet.

    Denied are those whose activation is softsign; the others' is tanh, which costs about as much.
    """
    mx.random.seed(1)
    x = data = mx.sym.var("data")
    for unit in range(UNITS):
        x = mx.sym.Convolution(x, num_filter=32, kernel=(3, 3), pad=(1, 1), name=f"conv{unit}")
        # Spread over the graph: every one of them cuts a segment in two.
        cuts = unit < UNITS - 1 and (unit * denied) // (UNITS - 1) != ((unit + 1) * denied) // (
            UNITS - 1
        )
        x = mx.sym.softsign(x, name=f"cut{unit}") if cuts else mx.sym.tanh(x, name=f"act{unit}")
    net = mx.gluon.SymbolBlock(x, data)
    net.collect_params().setattr("grad_req", "null")
    return net


@pytest.mark.parametrize("denied", DENIED)
def test_denied_operators(denied: int, bench: Bench, table: Callable[..., None]) -> None:
    """What a forward costs with so many of the operators left in MXNet."""
    title = f"mixed/{denied}-of-{UNITS}"
    bench.wanted(title)
    context = bench.settings.context
    x = mx.nd.random.uniform(-1, 1, shape=(1, 32, 28, 28), ctx=context)

    def make() -> mx.gluon.HybridBlock:
        net = block(denied)
        net.initialize(mx.init.Uniform(0.05), ctx=context)
        return net

    plain, ours = both(bench, make, x, deny_ops="softsign", allow_ops="*")
    found = bench(title, plain, ours)
    if found.paired is None:
        return
    # In units of plain MXNet on the same graph, so that a slower minute does not show.
    share = found.paired.mxtrt_ms / found.paired.plain_ms
    _base.setdefault("share", share if denied == 0 else float("nan"))
    cost = (share - _base["share"]) * found.paired.plain_ms * 1e3 / (2 * denied) if denied else 0.0
    table("boundaries", denied=denied, segments=denied + 1, per_boundary=f"{cost:.0f} us")
