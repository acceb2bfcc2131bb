"""A ``CachedOp`` of a program in another language, as Python sees it."""

from __future__ import annotations

import mxnet as mx

import mxtrt
from mxtrt.frontends.blocks import ClientBlock


def test_shapes_that_the_engines_do_not_take_are_asked_of_python():
    """Without it MXNet would run engine nodes whose shapes it could not infer."""
    like, weight = mx.nd.ones((1, 12)), mx.nd.ones((12,))
    lines = mx.sym.LeakyReLU(
        mx.sym.reshape_like(mx.sym.var("rows"), mx.sym.var("like")),
        mx.sym.var("weight"),
        act_type="prelu",
    )
    symbol = mx.sym.reshape_like(lines, mx.sym.var("data"), rhs_begin=1, rhs_end=-1)
    symbol = mx.sym.load_json(symbol.tojson().replace('"reshape_like"', '"_npx_reshape_like"'))
    given = {"rows": mx.nd.ones((3, 4)), "like": like, "weight": weight}
    names = symbol.list_inputs()
    weights = [names.index(name) for name in ("like", "weight")]
    with mxtrt.options(allow_ops="*"):
        block, armed = None, []
        for last in (2, 3, 3, 2):
            given["data"] = mx.nd.ones((3, 2, 6, last))
            arrays = [given[name] for name in names]
            block = block or ClientBlock(symbol, {"param_indices": str(weights)}, arrays)
            outputs, arms = block(arrays)
            assert (outputs[0].asnumpy() == 1).all()
            armed.append(arms is not None)
    assert armed == [True, False, False, True]
