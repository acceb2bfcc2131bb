"""Operators of MXNet's NumPy interface, where they compute what others do.

They differ where a result has no axes, where integers become floats, and where comparisons give
booleans; engines take none of these.
"""

from __future__ import annotations

# These fill the registry with what is named again here.
from mxtrt.convert.ops import activation as activation
from mxtrt.convert.ops import elementwise as elementwise
from mxtrt.convert.ops import nn as nn
from mxtrt.convert.ops import norm as norm
from mxtrt.convert.ops import pooling as pooling
from mxtrt.convert.ops import shape as shape
from mxtrt.convert.ops import softmax as softmax
from mxtrt.convert.ops.reduce import reduce_along
from mxtrt.convert.ops.registry import Call, converter, registry

#: Other names of operators.
_SAME = {
    "Activation": ("_npx_activation",),
    "BatchNorm": ("_npx_batch_norm",),
    "Convolution": ("_npx_convolution",),
    "Deconvolution": ("_npx_deconvolution",),
    "Dropout": ("_npx_dropout",),
    "FullyConnected": ("_npx_fully_connected",),
    "LayerNorm": ("_npx_layer_norm",),
    "LeakyReLU": ("_npx_leaky_relu",),
    "Pooling": ("_npx_pooling",),
    "abs": ("_npi_absolute", "_npi_abs"),
    "arccos": ("_npi_arccos",),
    "arccosh": ("_npi_arccosh",),
    "arcsin": ("_npi_arcsin",),
    "arcsinh": ("_npi_arcsinh",),
    "arctan": ("_npi_arctan",),
    "arctanh": ("_npi_arctanh",),
    "cbrt": ("_npi_cbrt",),
    "ceil": ("_npi_ceil",),
    "clip": ("_npi_clip",),
    "cos": ("_npi_cos",),
    "cosh": ("_npi_cosh",),
    "erf": ("_npx_erf",),
    "exp": ("_npi_exp",),
    "expm1": ("_npi_expm1",),
    "fix": ("_npi_fix",),
    "floor": ("_npi_floor",),
    "log": ("_npi_log",),
    "log1p": ("_npi_log1p",),
    "negative": ("_npi_negative",),
    "reciprocal": ("_npi_reciprocal",),
    "relu": ("_npx_relu",),
    "rint": ("_npi_rint",),
    "sigmoid": ("_npx_sigmoid",),
    "sign": ("_npi_sign",),
    "sin": ("_npi_sin",),
    "sinh": ("_npi_sinh",),
    "sqrt": ("_npi_sqrt",),
    "square": ("_npi_square",),
    "tan": ("_npi_tan",),
    "tanh": ("_npi_tanh",),
    "trunc": ("_npi_trunc",),
}

_REDUCTIONS = {
    "_npi_mean": "ReduceMean",
    "_np_sum": "ReduceSum",
    "_np_max": "ReduceMax",
    "_np_amax": "ReduceMax",
    "_np_min": "ReduceMin",
    "_np_amin": "ReduceMin",
    "_np_prod": "ReduceProd",
    "_np_product": "ReduceProd",
}

for _name, _others in _SAME.items():
    _entry = registry()[_name]
    converter(*_others, moves_data_only=_entry.moves_data_only, outputs=_entry.outputs)(
        _entry.convert
    )


@converter(*_REDUCTIONS, outputs=1)
def reduce(call: Call) -> None:
    """``ReduceMean``, ``ReduceSum`` and so on, of floats, over some axes."""
    call.require_floats()
    call.require("initial" not in call.node.attrs or call.text("initial", "") == "", "initial")
    rank, given = call.rank(), call.node.attrs.get("axis", "None")
    axes = tuple(range(rank)) if given == "None" else call.integers("axis")
    call.require(len(axes) > 0, "axis=()")
    call.require(all(-rank <= axis < rank for axis in axes), f"axis={axes} on rank {rank}")
    picked = sorted({axis % rank for axis in axes})
    op_type, keep = _REDUCTIONS[call.node.op], call.flag("keepdims")
    reduce_along(call, op_type, call.input(), picked, keep, call.output())


@converter("_npi_matmul", outputs=1)
def matmul(call: Call) -> None:
    """``MatMul``."""
    call.require_floats()
    call.emit("MatMul", [call.input(0), call.input(1)], output=call.output())


@converter("_np_dot", outputs=1)
def dot(call: Call) -> None:
    """``MatMul``, which is the same by a matrix or a vector."""
    call.require_floats()
    call.require(call.rank(1) <= 2, f"a second operand of {call.rank(1)} axes")
    call.emit("MatMul", [call.input(0), call.input(1)], output=call.output())
