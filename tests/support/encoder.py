"""A small encoder of texts, whose lengths MXNet's operators write into the model."""

from __future__ import annotations

import mxnet as mx
import numpy as np

import mxtrt

__all__ = ["UNITS", "answers", "batch", "encoder", "inputs"]

UNITS, HEADS = 16, 2


def encoder() -> mx.sym.Symbol:
    """Attention over a masked sequence ``(length, batch, UNITS)`` with places added."""
    data, valid = mx.sym.var("data"), mx.sym.var("valid")
    places = mx.sym.reshape(mx.sym.contrib.arange_like(data, axis=0), shape=(-1, 1, 1))
    x = mx.sym.SequenceMask(
        mx.sym.broadcast_add(data, places * 0.1), valid, use_sequence_length=True
    )
    qkv = mx.sym.FullyConnected(x, num_hidden=3 * UNITS, flatten=False, name="qkv")
    weights = mx.sym.softmax(mx.sym.contrib.interleaved_matmul_selfatt_qk(qkv, heads=HEADS))
    mixed = mx.sym.contrib.interleaved_matmul_selfatt_valatt(qkv, weights, heads=HEADS)
    return mx.sym.FullyConnected(mixed, num_hidden=UNITS, flatten=False, name="out")


def inputs(length: int) -> tuple[mx.nd.NDArray, mx.nd.NDArray]:
    """A batch of two sequences, and how much of each counts."""
    random = np.random.RandomState(length)
    data = mx.nd.array(random.uniform(-1, 1, (length, 2, UNITS)))
    return data, mx.nd.array([length, max(length // 2, 1)])


def batch(length: int) -> mx.io.DataBatch:
    """The inputs of some length, for a module."""
    data, valid = inputs(length)
    shapes = [
        mx.io.DataDesc("data", data.shape, layout="TNC"),
        mx.io.DataDesc("valid", valid.shape),
    ]
    return mx.io.DataBatch([data, valid], bucket_key=length, provide_data=shapes)


def answers(block: mx.gluon.SymbolBlock, lengths: list[int]) -> list[np.ndarray]:
    """Plain MXNet's."""
    block.hybridize()
    with mxtrt.options(enabled=False):
        seen = [block(*inputs(length)).asnumpy() for length in lengths]
    block.hybridize()
    return seen
