"""The ways in which a program binds."""

from __future__ import annotations

import mxnet as mx

import mxtrt
from support.networks import images

X = images()


def bound(symbol: mx.sym.Symbol, way: str, args: dict, aux: dict) -> tuple[object, object]:
    """The first head's answer after a bind this way, and the bind's report."""
    if way == "bind":
        label = (
            {"softmax_label": mx.nd.zeros((2,))}
            if "softmax_label" in symbol.list_arguments()
            else {}
        )
        executor = symbol.bind(
            mx.cpu(), {"data": X, **label, **args}, grad_req="null", aux_states=aux
        )
        return executor.forward()[0], mxtrt.last_report()
    if way == "simple_bind":
        executor = symbol.simple_bind(mx.cpu(), grad_req="null", data=X.shape)
        executor.copy_params_from(args, aux)
        return executor.forward(data=X)[0], mxtrt.last_report()
    if way == "optimize_for":
        given = {**args, "data": X, "softmax_label": mx.nd.zeros((2,))}
        states = dict(aux)
        engines = symbol.optimize_for("TensorRT", given, states, mx.cpu(), data_names="data")
        inputs = {name: given[name] for name in engines.list_arguments()}
        executor = engines.bind(mx.cpu(), inputs, grad_req="null", aux_states=states)
        return executor.forward()[0], mxtrt.last_report()
    block = mx.gluon.SymbolBlock(symbol, [mx.sym.var("data"), mx.sym.var("softmax_label")])
    for name, parameter in block.collect_params().items():
        parameter.shape = {**args, **aux}[name].shape
        parameter.initialize()
        parameter.set_data({**args, **aux}[name])
    block.hybridize()
    return block(X, mx.nd.zeros((2,))), mxtrt.last_report()
