"""Networks that MXNet quantizes for oneDNN."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import mxnet as mx
import numpy as np

_BACKEND = "MKLDNN_QUANTIZE"


def conv(x: mx.sym.Symbol, name: str, filters: int = 8, kernel: int = 3, **attrs: Any) -> Any:
    """A convolution that keeps the size, and a BatchNorm."""
    attrs = {"kernel": (kernel,) * 2, "pad": (kernel // 2,) * 2, "num_filter": filters, **attrs}
    made = mx.sym.Convolution(x, name=f"{name}_conv", **attrs)
    return mx.sym.BatchNorm(made, name=f"{name}_norm", fix_gamma=False)


def relu(x: mx.sym.Symbol) -> mx.sym.Symbol:
    """The activation that oneDNN fuses with what is before it."""
    return mx.sym.Activation(x, act_type="relu")


def network() -> mx.sym.Symbol:
    """Blocks of all kinds: a sum, a concatenation, poolings, dense layers."""
    x = relu(conv(mx.sym.var("data"), "first"))
    y = relu(conv(x, "second", no_bias=True))
    x = relu(conv(y, "third") + x)
    x = mx.sym.Pooling(x, kernel=(2, 2), stride=(2, 2), pool_type="max")
    parts = [relu(conv(x, "left", kernel=1)), mx.sym.clip(conv(x, "right"), 0, 6)]
    x = conv(mx.sym.concat(*parts, dim=1), "groups", 16, num_group=16)
    x = mx.sym.Pooling(x, global_pool=True, kernel=(1, 1), pool_type="avg")
    x = mx.sym.FullyConnected(mx.sym.Flatten(x), num_hidden=16, name="dense")
    return mx.sym.FullyConnected(relu(x), num_hidden=5, name="last")


def quantized(
    symbol: mx.sym.Symbol, arrays: dict[str, Any], data: np.ndarray[Any, Any], **options: Any
) -> tuple[mx.sym.Symbol, dict[str, Any], dict[str, Any]]:
    """A network in int8, its ranges calibrated on some data, as MXNet's scripts quantize it.

    Args:
        symbol: The network, which reads ``data``.
        arrays: Its weights and auxiliary states by name.
        data: Samples.
        options: Those of ``quantize_model``.

    Returns:
        The symbol, its arguments and its auxiliary states.
    """
    from mxnet.contrib.quantization import quantize_model

    states = symbol.list_auxiliary_states()
    quiet = logging.Logger("quiet", logging.ERROR)
    options = {"calib_mode": "naive", "quantized_dtype": "auto", **options}
    if options["calib_mode"] == "naive":
        samples = mx.io.NDArrayIter(mx.nd.array(data), None, len(data))
        options |= {"calib_data": samples, "num_calib_examples": len(data)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made, arguments, aux = quantize_model(
            symbol.get_backend_symbol(_BACKEND),
            {name: array for name, array in arrays.items() if name not in states},
            {name: arrays[name] for name in states},
            ctx=mx.cpu(),
            label_names=None,
            logger=quiet,
            **options,
        )
    # As if it were loaded: the symbol that comes back shares what oneDNN made of it.
    return mx.sym.load_json(made.get_backend_symbol(_BACKEND).tojson()), arguments, aux


def answer(
    symbol: mx.sym.Symbol,
    arguments: dict[str, Any],
    aux: dict[str, Any],
    data: np.ndarray[Any, Any],
) -> np.ndarray[Any, Any]:
    """What a bound network makes of some data."""
    given = {name: arguments[name] for name in symbol.list_arguments() if name in arguments}
    given["data"] = mx.nd.array(data)
    executor = symbol.bind(mx.cpu(), given, aux_states=aux, grad_req="null")
    result: np.ndarray[Any, Any] = executor.forward(is_train=False)[0].asnumpy()
    return result
