"""Suite ``bert``: one encoder block of BERT-base, with MXNet's interleaved attention operators."""

from __future__ import annotations

import mxnet as mx
import pytest
from bench.harness import Bench, both

UNITS, HEADS, HIDDEN = 768, 12, 3072


def encoder() -> mx.sym.Symbol:
    """The block, as GluonNLP writes it: the sequence first, ``(length, batch, units)``."""
    x = mx.sym.var("data")
    qkv = mx.sym.FullyConnected(x, num_hidden=3 * UNITS, flatten=False, name="qkv")
    scores = mx.sym.contrib.interleaved_matmul_selfatt_qk(qkv, heads=HEADS)
    attention = mx.sym.softmax(scores, axis=-1)
    mixed = mx.sym.contrib.interleaved_matmul_selfatt_valatt(qkv, attention, heads=HEADS)
    mixed = mx.sym.FullyConnected(mixed, num_hidden=UNITS, flatten=False, name="proj")
    x = mx.sym.LayerNorm(x + mixed, name="norm1")
    hidden = mx.sym.FullyConnected(x, num_hidden=HIDDEN, flatten=False, name="ffn1")
    hidden = mx.sym.LeakyReLU(hidden, act_type="gelu")
    hidden = mx.sym.FullyConnected(hidden, num_hidden=UNITS, flatten=False, name="ffn2")
    return mx.sym.LayerNorm(x + hidden, name="norm2")


@pytest.mark.parametrize("batch", [1, 16])
def test_a_block_of_bert_base(batch: int, bench: Bench) -> None:
    """128 tokens."""
    title = f"bert/block/{batch}"
    bench.wanted(title, batch == 1)
    context = bench.settings.context
    x = mx.nd.random.uniform(-1, 1, shape=(128, batch, UNITS), ctx=context)

    def make() -> mx.gluon.HybridBlock:
        mx.random.seed(1)
        net = mx.gluon.SymbolBlock(encoder(), mx.sym.var("data"))
        net.collect_params().setattr("grad_req", "null")
        net.initialize(mx.init.Uniform(0.05), ctx=context)
        return net

    plain, ours = both(bench, make, x)
    bench(title, plain, ours)
