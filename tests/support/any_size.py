"""Networks for inputs of any size, and what asks them, for an engine that has to follow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np

import mxtrt
from mxtrt.plan.plan import live_plans
from support.networks import assert_close

DATA = mx.sym.var("data")

# How far an answer may be from MXNet's, of its largest number.
TOLERANCES = {"fp32": 1e-5, "tf32": 5e-3}


def pictures() -> Any:
    """A network for pictures of any size, with residuals and strides."""
    x = mx.sym.Convolution(DATA, kernel=(3, 3), num_filter=16, stride=(2, 2), name="one")
    x = mx.sym.Activation(x, act_type="relu")
    y = mx.sym.Convolution(x, kernel=(3, 3), pad=(1, 1), num_filter=16, name="two")
    x = mx.sym.Pooling(x + y, kernel=(3, 3), stride=(2, 2), pad=(1, 1), pool_type="max")
    return mx.sym.FullyConnected(
        mx.sym.Pooling(x, global_pool=True, pool_type="avg"), num_hidden=10, name="dense"
    )


def features() -> Any:
    """The same without its end: outputs of many shapes."""
    x = mx.sym.Convolution(DATA, kernel=(3, 3), num_filter=16, stride=(2, 2), name="one")
    return mx.sym.Deconvolution(
        x, kernel=(4, 4), stride=(2, 2), num_filter=8, no_bias=True, name="up"
    )


def texts() -> Any:
    """A layer of attention, which writes lengths into its model."""
    x = mx.sym.FullyConnected(DATA, num_hidden=32, flatten=False, name="in")
    places = mx.sym.reshape(mx.sym.contrib.arange_like(x, axis=1), shape=(1, -1, 1))
    x = mx.sym.broadcast_add(x, places * 0.01)
    heads = [
        mx.sym.reshape(
            mx.sym.transpose(
                mx.sym.reshape(
                    mx.sym.FullyConnected(x, num_hidden=32, flatten=False, name=name),
                    shape=(0, 0, 4, -1),
                ),
                axes=(0, 2, 1, 3),
            ),
            shape=(-3, 0, 0),
        )
        for name in ("query", "key", "value")
    ]
    scores = mx.sym.softmax(mx.sym.batch_dot(heads[0], heads[1], transpose_b=True) * 0.35)
    x = mx.sym.reshape(mx.sym.batch_dot(scores, heads[2]), shape=(-4, -1, 4, 0, 0))
    x = mx.sym.reshape(mx.sym.transpose(x, axes=(0, 2, 1, 3)), shape=(0, 0, -3))
    return mx.sym.FullyConnected(x, num_hidden=5, flatten=False, name="out")


class Net:
    """A hybridized block, and its answers in plain MXNet on the CPU.

    Args:
        symbol: The block's symbol.
        folder: Where engines are kept.
        context: Where its arrays are.
        options: Of the binds.
    """

    def __init__(self, symbol: Any, folder: Path, context: Any = None, **options: Any) -> None:
        self.options = {"engine": "tensorrt", "cache_dir": str(folder), **options}
        self.context = context or mx.cpu()
        self.tolerance = TOLERANCES[options.get("precision", "fp32")]
        self.plain = mx.gluon.SymbolBlock(symbol, DATA)
        self.plain.initialize(mx.init.Uniform(0.3))
        self.net = mx.gluon.SymbolBlock(symbol, DATA)
        self.filled = False

    def change(self, name: str, seed: int) -> None:
        """Have other values of a weight, in plain MXNet too."""
        value = self.plain.collect_params()[name]
        array = mx.nd.array(np.random.RandomState(seed).uniform(-0.3, 0.3, value.shape))
        value.set_data(array)
        self.net.collect_params()[name].set_data(array.as_in_context(self.context))

    def __call__(self, *shape: int) -> mx.nd.NDArray:
        """The answer at an input shape; it is MXNet's."""
        x = mx.nd.array(np.random.RandomState(sum(shape)).uniform(-1, 1, shape))
        if not self.filled:
            mx.random.seed(3, ctx=mx.cpu())  # the first call draws the weights
        with mxtrt.options(enabled=False):
            expected = self.plain(x)
        if not self.filled:
            # MXNet has no kernel to fill the gradients on the newer GPUs.
            self.net.collect_params().setattr("grad_req", "null")
            for name, value in self.plain.collect_params().items():
                self.net.collect_params()[name]._load_init(value.data(), self.context)
            self.net.hybridize()
            self.filled = True
        mx.nd.waitall()  # writes to weights are done
        with mxtrt.options(**self.options):
            out = self.net(x.as_in_context(self.context))
        assert_close(out, expected, self.tolerance)
        return out

    @property
    def node(self) -> Any:
        """Its engine node."""
        plans = [p for p in live_plans() if p.options.cache_dir == self.options["cache_dir"]]
        (node,) = plans[-1].nodes
        return node
