"""Inputs of ever other lengths, where MXNet's operators write the length into the model."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from support.encoder import answers, encoder, inputs
from support.networks import assert_close

import mxtrt
from mxtrt.convert import general


@pytest.mark.parametrize("proofs", [6, general.PROOFS])
def test_a_block_has_two_engines_for_all_lengths(block, proofs, monkeypatch):
    """The one it was bound with and one for the others, proved at each length or trusted."""
    monkeypatch.setattr(general, "PROOFS", proofs)
    lengths = [8, 11, 30, *range(3, 40), 8, 11]
    expected = answers(block, lengths)
    before = mxtrt.stats()
    with mxtrt.options():
        for length, answer in zip(lengths, expected, strict=True):
            assert_close(block(*inputs(length)), answer)
    seen = mxtrt.stats()
    assert (seen.builds - before.builds, seen.fallbacks - before.fallbacks) == (2, 0)
    (segment,) = mxtrt.last_report().segments
    assert "one engine for all sizes of data axis 0" in segment.notes


def test_executors_of_other_lengths_share_an_engine(block):
    """Reshaped ones, and what one of them was bound with stays as it was."""
    arrays = {name: p.data() for name, p in block.collect_params().items()}
    expected = answers(block, [8, 12, 15, 7])
    data, valid = inputs(8)
    before = mxtrt.stats().builds
    with mxtrt.options():
        executor = encoder().bind(
            mx.cpu(), {**arrays, "data": data, "valid": valid}, grad_req="null"
        )
    others = []
    for length in (12, 15, 7):
        data, valid = inputs(length)
        others.append(executor.reshape(allow_up_sizing=True, data=data.shape, valid=valid.shape))
        assert_close(others[-1].forward(data=data, valid=valid)[0], expected[len(others)])
    assert_close(executor.forward(data=inputs(8)[0], valid=inputs(8)[1])[0], expected[0])
    assert mxtrt.stats().builds - before == 2


def test_weights_that_change_are_in_both_engines(block):
    """What was built for other lengths is built again with the new weights."""
    with mxtrt.options():
        for length in (8, 12, 15):
            block(*inputs(length))
    weight = block.collect_params()["out_weight"]
    weight.set_data(weight.data() * 2)
    expected = answers(block, [8, 15, 20])
    with mxtrt.options():
        for _ in range(4):
            for length, answer in zip((8, 15, 20), expected, strict=True):
                assert_close(block(*inputs(length)), answer)
    assert mxtrt.last_report().left == []


def test_other_precisions_keep_an_engine_for_each_length(block):
    """Their models are retyped for the shapes at hand."""
    expected = answers(block, [8, 12, 15])
    before = mxtrt.stats().builds
    with mxtrt.options(precision="fp16"):
        for length, answer in zip((8, 12, 15), expected, strict=True):
            assert_close(block(*inputs(length)), answer, 2e-2)
    assert mxtrt.stats().builds - before == 3


def test_a_weight_that_is_read_for_its_shape_only_is_known_at_other_sizes():
    """Not part of the model, but of the segment, which is asked for its shapes."""
    like = mx.sym.var("like", shape=(2, 3))
    symbol = mx.sym.relu(mx.sym.slice_like(mx.sym.var("data"), like)) * 2
    before = mxtrt.stats().fallbacks
    with mxtrt.options(prefer="engine"):
        executor = symbol.bind(
            mx.cpu(), {"data": mx.nd.zeros((4, 5)), "like": mx.nd.zeros((2, 3))}, grad_req="null"
        )
        data = mx.nd.random.uniform(-1, 1, (6, 5))
        larger = executor.reshape(allow_up_sizing=True, data=data.shape)
        runs = mxtrt.stats().engine_runs
        seen = larger.forward(data=data)[0]
    assert (mxtrt.stats().engine_runs - runs, mxtrt.stats().fallbacks - before) == (1, 0)
    assert_close(seen, np.maximum(data.asnumpy()[:2, :3], 0) * 2)


def test_a_symbol_that_holds_its_weights_takes_sizes_that_no_model_serves(caplog):
    """It has nobody else to answer: MXNet's operators do, inside its node."""
    places = mx.sym.argsort(mx.sym.var("data"), axis=-1)
    symbol = places.optimize_for("TensorRT", {"data": mx.nd.zeros((1, 8))}, {}, mx.cpu())
    executor = symbol.bind(mx.cpu(), {"data": mx.nd.zeros((1, 8))}, grad_req="null")
    for length in (20, 8, 20, 30):  # more than 16 are not converted
        data = mx.nd.array(np.random.RandomState(length).permutation(length).reshape(1, -1))
        other = executor.reshape(allow_up_sizing=True, data=data.shape)
        seen = other.forward(data=data)[0].asnumpy()
        assert np.array_equal(seen, np.argsort(data.asnumpy(), axis=-1))
    assert "the order that MXNet's sort leaves equal elements in" in caplog.text


def test_adaptive_pooling_has_an_engine_for_all_sizes(monkeypatch):
    """Sizes that a pooling serves, and others: two engines, and MXNet's answers."""
    monkeypatch.setattr(general, "PROOFS", 6)
    data = mx.sym.var("data")
    net = mx.gluon.SymbolBlock(mx.sym.contrib.AdaptiveAvgPooling2D(data * 2, output_size=7), [data])
    net.hybridize()
    sizes = [14, 21, 30, *range(7, 30), 14]
    pictures = [mx.nd.random.uniform(-1, 1, (1, 2, size, 14)) for size in sizes]
    with mxtrt.options(enabled=False):
        expected = [net(picture).asnumpy() for picture in pictures]
    net.hybridize()
    before = mxtrt.stats()
    with mxtrt.options(prefer="engine", allow_ops="*"):
        for picture, answer in zip(pictures, expected, strict=True):
            assert_close(net(picture), answer)
    seen = mxtrt.stats()
    assert (seen.builds - before.builds, seen.fallbacks - before.fallbacks) == (2, 0)


def test_a_resize_to_the_size_of_other_data_takes_any_size():
    """Which its segment has to be told of, though it reads nothing else of them."""
    like = mx.sym.contrib.BilinearResize2D(mx.sym.var("data"), mx.sym.var("like"), mode="like")
    shapes = {"data": (1, 2, 4, 4), "like": (1, 1, 7, 6)}
    zeros = {name: mx.nd.zeros(shape) for name, shape in shapes.items()}
    with mxtrt.options(allow_ops="*", prefer="engine"):
        symbol = like.optimize_for("TensorRT", dict(zeros), {}, mx.cpu())
    executor = symbol.bind(mx.cpu(), dict(zeros), grad_req="null")
    for size in (7, 9, 5, 12):
        given = {
            "data": mx.nd.random.uniform(-1, 1, (1, 2, size - 1, 4)),
            "like": mx.nd.zeros((1, 1, size, size + 2)),
        }
        sizes = {name: array.shape for name, array in given.items()}
        other = executor.reshape(allow_up_sizing=True, **sizes)
        with mxtrt.options(enabled=False):
            plain = like.bind(mx.cpu(), given, grad_req="null").forward()[0]
        runs = mxtrt.stats().engine_runs
        assert_close(other.forward(**given)[0], plain)
        assert mxtrt.stats().engine_runs == runs + 1
