"""Random graphs, random operators denied to the engine, every way to bind, against plain MXNet."""

from __future__ import annotations

from typing import Any

import mxnet as mx
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import assert_close, parameters, plain

import mxtrt

OPERATORS = (
    "Activation",
    "BatchNorm",
    "Concat",
    "Convolution",
    "LeakyReLU",
    "Pooling",
    "SliceChannel",
    "_mul_scalar",
    "broadcast_add",
    "clip",
    "elemwise_add",
    "softmax",
)


class Pool:
    """Grows a graph forward; every value is ``(batch, channels, height, width)``."""

    def __init__(self, draw: st.DrawFn, shape: tuple[int, ...]) -> None:
        self.draw = draw
        self.values = [(mx.sym.var("data"), shape)]

    def add(self, symbol: mx.sym.Symbol, shape: tuple[int, ...]) -> None:
        """Make a value available."""
        self.values.append((symbol, shape))

    def pick(self, like: tuple[int, ...] | None = None, axes: tuple[int, ...] = (0, 1, 2, 3)):
        """One of the values, on request with some axes as another's."""
        fitting = [
            value
            for value in self.values
            if like is None or all(value[1][axis] == like[axis] for axis in axes)
        ]
        # The latest values more often: deep graphs rather than wide ones.
        return self.draw(st.sampled_from(fitting[-2:] if self.draw(st.booleans()) else fitting))

    def grow(self) -> None:
        """Apply one operator."""
        draw = self.draw
        x, (n, c, h, w) = self.pick()
        kind = draw(st.sampled_from(STEPS))
        name = f"op{len(self.values)}"
        if kind == "convolution":
            filters, kernel = draw(st.integers(1, 3)) * 2, draw(st.sampled_from([1, 3]))
            groups = 2 if c % 2 == 0 and draw(st.booleans()) else 1
            y = mx.sym.Convolution(
                x,
                num_filter=filters,
                kernel=(kernel, kernel),
                pad=(kernel // 2, kernel // 2),
                num_group=groups,
                no_bias=draw(st.booleans()),
                name=name,
            )
            self.add(y, (n, filters, h, w))
        elif kind == "norm":
            y = mx.sym.BatchNorm(x, fix_gamma=draw(st.booleans()), name=name)
            self.add(y, (n, c, h, w))
        elif kind == "activation":
            act = draw(st.sampled_from(["relu", "sigmoid", "tanh", "softrelu", "softsign"]))
            self.add(mx.sym.Activation(x, act_type=act, name=name), (n, c, h, w))
        elif kind == "leaky":
            act = draw(st.sampled_from(["leaky", "prelu", "elu", "selu", "gelu"]))
            self.add(mx.sym.LeakyReLU(x, act_type=act, name=name), (n, c, h, w))
        elif kind == "pooling" and h >= 3 and w >= 3:
            y = mx.sym.Pooling(
                x,
                kernel=(3, 3),
                stride=(2, 2),
                pad=draw(st.sampled_from([(0, 0), (1, 1)])),
                pool_type=draw(st.sampled_from(["max", "avg"])),
                pooling_convention=draw(st.sampled_from(["valid", "full"])),
                count_include_pad=draw(st.booleans()),
                name=name,
            )
            _, (shape,), _ = y.infer_shape_partial(data=self.values[0][1])
            self.add(y, tuple(shape))
        elif kind == "add":
            other, _ = self.pick((n, c, h, w))
            self.add(mx.sym.elemwise_add(x, other, name=name), (n, c, h, w))
        elif kind == "concat":
            other, (_, more, _, _) = self.pick((n, c, h, w), (0, 2, 3))
            self.add(mx.sym.concat(x, other, dim=1, name=name), (n, c + more, h, w))
        elif kind == "split" and c % 2 == 0:
            y = mx.sym.SliceChannel(x, num_outputs=2, axis=1, name=name)
            self.add(y[0], (n, c // 2, h, w))
            self.add(y[1], (n, c // 2, h, w))
        elif kind == "mean":
            mean = mx.sym.mean(x, axis=(2, 3), keepdims=True, name=f"{name}_mean")
            self.add(mx.sym.broadcast_add(x, mean, name=name), (n, c, h, w))
        elif kind == "scalar":
            self.add(mx.sym.clip(x * 0.7 + 0.1, -2, 2, name=name), (n, c, h, w))
        elif kind == "softmax":
            self.add(mx.sym.softmax(x, axis=draw(st.integers(-4, 3)), name=name), (n, c, h, w))
        elif kind == "sort":  # no engine takes it
            self.add(mx.sym.sort(x, axis=1, name=name), (n, c, h, w))
        elif kind == "pass":
            self.add(mx.sym.BlockGrad(mx.sym.Dropout(x), name=name), (n, c, h, w))


STEPS = (
    ["convolution"] * 3
    + ["norm", "activation", "leaky", "pooling", "add", "concat", "split", "mean"]
    + ["scalar", "softmax", "sort", "pass"]
)


@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    """A graph with its heads, what is denied to the engine, and how it is bound."""
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 3)) * 2, *draw(st.sampled_from(SIZES)))
    pool = Pool(draw, shape)
    for _ in range(draw(st.integers(1, 9))):
        pool.grow()
    last = len(pool.values) - 1
    heads = [last, *draw(st.lists(st.integers(0, last), max_size=2))]
    return {
        "symbol": mx.sym.Group([pool.values[head][0] for head in heads]),
        "shape": shape,
        "denied": tuple(draw(st.sets(st.sampled_from(OPERATORS), max_size=4))),
        "bind": draw(st.sampled_from(sorted(BINDS))),
        "inline": draw(st.sampled_from([0, 10**6])),
        "seed": draw(st.integers(0, 2**16)),
    }


SIZES = [(4, 4), (5, 7), (8, 8), (1, 6)]


def by_simple_bind(symbol, args, aux, x):
    """simple_bind, weights afterwards."""
    executor = symbol.simple_bind(mx.cpu(), grad_req="null", data=x.shape)
    executor.copy_params_from(args, aux)
    return lambda x: executor.forward(data=x)


def by_bind(symbol, args, aux, x):
    """Bind, weights with it."""
    executor = symbol.bind(mx.cpu(), {"data": x.copy(), **args}, aux_states=aux)
    return lambda x: executor.forward(data=x)


def by_gluon(static: bool):
    """A hybridized SymbolBlock."""

    def bind(symbol, args, aux, x):
        block = mx.gluon.SymbolBlock(symbol, mx.sym.var("data"))
        for name, parameter in block.collect_params().items():
            parameter._load_init({**args, **aux}[name], mx.cpu())
        block.hybridize(static_alloc=static, static_shape=static)
        return lambda x: block(x)

    return bind


def by_optimize_for(symbol, args, aux, x):
    """optimize_for, then bind."""
    given, states = {"data": x, **args}, dict(aux)
    partitioned = symbol.optimize_for("TensorRT", given, states, mx.cpu())
    given["data"] = x.copy()
    executor = partitioned.bind(
        mx.cpu(), {n: given[n] for n in partitioned.list_arguments()}, aux_states=states
    )
    return lambda x: executor.forward(**({"data": x} if "data" in executor.arg_dict else {}))


BINDS = {
    "simple_bind": by_simple_bind,
    "bind": by_bind,
    "gluon": by_gluon(False),
    "gluon static": by_gluon(True),
    "optimize_for": by_optimize_for,
}


@given(cases())
@settings(derandomize=True, max_examples=120, deadline=None)
def test_random_graphs_agree_with_plain_mxnet(case):
    """Every head, in order; a second input gives fresh results."""
    symbol, shape = case["symbol"], case["shape"]
    args, aux = parameters(symbol, seed=case["seed"], data=shape)
    random = np.random.RandomState(case["seed"])
    inputs = [mx.nd.array(random.uniform(-1, 1, shape)) for _ in range(3)]
    with mxtrt.options(deny_ops=case["denied"], inline_below=case["inline"]):
        call = BINDS[case["bind"]](symbol, dict(args), dict(aux), inputs[0])
        for x in inputs:
            outputs = call(x)
            outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
            expected = plain(symbol, args, aux, data=x)
            assert len(outputs) == len(expected)
            for one, two in zip(outputs, expected, strict=True):
                assert_close(one, two, 3e-5)
    reasons = {node.op for node in mxtrt.last_report().left if "deny_ops" in node.reason}
    assert reasons <= set(case["denied"])
