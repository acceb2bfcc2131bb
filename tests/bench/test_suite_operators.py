"""Suite ``operators``: every kind of operator alone, not part of the gate.

All of it is in engines, unless --bench-prefer has it as users have it.

What ``mxtrt/convert/ops/slower.py`` and ``mxtrt/trial/fastest.py`` know of ONNX Runtime's kernels
beside MXNet's.
"""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from bench.harness import Bench, both
from bench.operators import SUBJECTS


@pytest.mark.parametrize("name", SUBJECTS)
def test_an_operator_alone(name: str, bench: Bench) -> None:
    """A forward, from the call until the result is there."""
    title = f"operators/{name}"
    bench.wanted(title)
    subject, context = SUBJECTS[name], bench.settings.context
    random = np.random.default_rng(1)
    arrays = [
        random.integers(0, subject.below, shape) if subject.below else random.standard_normal(shape)
        for shape in subject.shapes
    ]
    inputs = [mx.nd.array(array, ctx=context) for array in arrays]
    variables = [mx.sym.var(f"data{i}") for i in range(len(inputs))]
    symbol = subject.make(*variables)

    def make() -> mx.gluon.HybridBlock:
        mx.random.seed(1)
        net = mx.gluon.SymbolBlock(symbol, variables)
        net.collect_params().setattr("grad_req", "null")
        net.initialize(mx.init.Uniform(0.05), ctx=context)
        return net

    # Otherwise the rules leave some to MXNet, which is what users have.
    allowed = {"allow_ops": "*"} if bench.settings.prefer == "engine" else {}
    plain, ours = both(bench, make, *inputs, **allowed)
    bench(title, plain, ours)
