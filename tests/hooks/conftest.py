"""What several tests of binds work on."""

from __future__ import annotations

import mxnet as mx
import pytest
from support.encoder import encoder, inputs


@pytest.fixture
def block() -> mx.gluon.SymbolBlock:
    """The encoder as a hybridized block."""
    net = mx.gluon.SymbolBlock(encoder(), [mx.sym.var("data"), mx.sym.var("valid")])
    net.initialize(mx.init.Uniform(0.3))
    net(*inputs(5))
    net.hybridize()
    return net
