"""Binds of one graph at many shapes."""

from __future__ import annotations

from typing import Any

import mxnet as mx
import pytest
from support.encoder import answers, batch, encoder, inputs
from support.networks import assert_close

import mxtrt
from mxtrt.plan import family
from mxtrt.plan.plan import live_plans
from mxtrt.system.recent import Recent


@pytest.fixture(autouse=True)
def strangers(monkeypatch: pytest.MonkeyPatch) -> None:
    """No family is known from other tests."""
    monkeypatch.setattr(family, "_families", Recent(64, 64))


def bound(symbol: mx.sym.Symbol, **arrays: Any) -> tuple[mx.executor.Executor, str]:
    """An executor with engines, and what its model is known by."""
    before = set(live_plans())
    with mxtrt.options():
        executor = symbol.bind(mx.cpu(), arrays, grad_req="null")
    (plan,) = set(live_plans()) - before
    (node,) = plan.nodes
    ((_, variant),) = node.variants
    return executor, variant.digest


def test_binds_at_many_lengths_have_two_engines(block):
    """One for the first length, one for all others: the weights are there twice, not six times."""
    weights = {name: parameter.data() for name, parameter in block.collect_params().items()}
    symbol, lengths = encoder(), [8, 12, 5, 30, 8, 17]
    expected = answers(block, lengths)
    before, digests, kept = mxtrt.stats(), [], []
    for length, answer in zip(lengths, expected, strict=True):
        data, valid = inputs(length)
        executor, digest = bound(symbol, data=data, valid=valid, **weights)
        assert_close(executor.forward()[0], answer)
        digests.append(digest)
        kept.append(executor)
    after = mxtrt.stats()
    assert after.builds - before.builds == 2
    assert after.engine_runs - before.engine_runs == 6
    own, general = digests[:2]
    assert digests == [own, general, general, general, own, general]


def test_binds_that_differ_in_more_than_sizes_share_no_model():
    """In an attribute, a dtype, or the shape of a weight."""
    data = mx.sym.var("data")

    def digest(length: int, value: float = 0, width: int = 3, dtype: str = "float32") -> str:
        mask = {"use_sequence_length": True, "value": value}
        x = mx.sym.SequenceMask(data, mx.sym.var("valid"), **mask, name="x")
        symbol = mx.sym.FullyConnected(x, num_hidden=4, flatten=False, no_bias=True, name="y")
        shapes = {"data": (length, 1, width), "valid": (1,), "y_weight": (4, width)}
        arrays = {name: mx.nd.ones(shape, dtype=dtype) for name, shape in shapes.items()}
        return bound(symbol, **arrays)[1]

    own, general = digest(5), digest(6)
    assert own != general == digest(7) == digest(9)
    others = [digest(8, value=1), digest(8, width=5), digest(8, dtype="float16")]
    assert len({own, general, *others}) == 5


def test_buckets_share_their_engines(block):
    """The default one has its own, all others one together."""
    params = {name: p.data() for name, p in block.collect_params().items()}
    lengths = [16, 8, 12, 4, 10]
    expected = answers(block, lengths)

    module = mx.mod.BucketingModule(
        lambda _length: (encoder(), ("data", "valid"), None), lengths[0], context=mx.cpu()
    )
    before = mxtrt.stats()
    with mxtrt.options():
        module.bind(batch(lengths[0]).provide_data, for_training=False)
        module.set_params(params, {})
        for length, answer in zip(lengths, expected, strict=True):
            module.forward(batch(length), is_train=False)
            assert_close(module.get_outputs()[0], answer)
    after = mxtrt.stats()
    assert after.builds - before.builds == 2
    assert after.engine_runs - before.engine_runs == len(lengths)
