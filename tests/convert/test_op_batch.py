"""Converted graphs do not depend on the batch size, so that one engine serves all."""

from __future__ import annotations

from typing import Any

import pytest
from support.converters import Converted, data, mx, operator, symbol, to_onnx

import mxtrt.convert.ops

CASES: list[tuple[str, list[tuple[int, ...]], dict[str, Any]]] = [
    ("Convolution", [(3, 8, 8), (4, 3, 3, 3), (4,)], {"kernel": (3, 3), "num_filter": 4}),
    ("Deconvolution", [(3, 8, 8), (3, 4, 2, 2)], {"kernel": (2, 2), "num_filter": 4}),
    ("Pooling", [(3, 8, 8)], {"kernel": (3, 3), "stride": (2, 2), "pad": (1, 1)}),
    ("Pooling", [(3, 8, 8)], {"kernel": (2, 2), "pool_type": "avg"}),
    (
        "Pooling",
        [(3, 8, 8)],
        {"kernel": (3, 3), "stride": (2, 2), "pad": (1, 1)}
        | {"pool_type": "avg", "pooling_convention": "full"},
    ),
    ("Pooling", [(3, 8, 8)], {"global_pool": True, "pool_type": "avg"}),
    ("Pooling", [(8, 8, 3)], {"kernel": (2, 2), "layout": "NHWC", "pool_type": "sum"}),
    ("FullyConnected", [(3, 4), (5, 12), (5,)], {"num_hidden": 5}),
    ("FullyConnected", [(3, 4), (5, 4), (5,)], {"num_hidden": 5, "flatten": False}),
    ("Flatten", [(3, 4, 5)], {}),
    ("Reshape", [(3, 4, 5)], {"shape": (-1, 60)}),
    ("Reshape", [(3, 4, 5)], {"shape": (0, -1)}),
    ("Reshape", [(3, 4, 5)], {"shape": (-3, 0, 0)}),
    ("Activation", [(3, 4)], {"act_type": "relu"}),
    ("LeakyReLU", [(3, 4), (3,)], {"act_type": "prelu"}),
    ("Dropout", [(3, 4)], {}),
    ("clip", [(3, 4)], {"a_min": 0, "a_max": 6}),
    ("softmax", [(10,)], {}),
    ("LRN", [(5, 4, 4)], {"nsize": 3}),
    ("L2Normalization", [(5, 4, 4)], {}),
    ("LayerNorm", [(4, 5), (5,), (5,)], {}),
    ("InstanceNorm", [(3, 4, 5), (3,), (3,)], {}),
    ("transpose", [(3, 4)], {"axes": (0, 2, 1)}),
    ("slice_axis", [(6, 4)], {"axis": 1, "begin": 1, "end": 3}),
    ("slice", [(6, 4)], {"begin": (None, 1), "end": (None, 3)}),
    ("SliceChannel", [(6, 4)], {"num_outputs": 2}),
    ("mean", [(3, 4, 5)], {"axis": (2, 3)}),
    ("Pad", [(3, 4, 5)], {"mode": "edge", "pad_width": (0, 0, 0, 0, 1, 1, 1, 1)}),
    ("UpSampling", [(3, 4, 5)], {"scale": 2, "sample_type": "nearest", "num_args": 1}),
    ("_mul_scalar", [(3, 4)], {"scalar": 2}),
    ("GroupNorm", [(4, 5, 5), (2,), (2,)], {"num_groups": 2}),
    ("_contrib_BilinearResize2D", [(3, 4, 5)], {"height": 7, "width": 3}),
    ("_contrib_AdaptiveAvgPooling2D", [(3, 7, 5)], {"output_size": 3}),
    ("_contrib_AdaptiveAvgPooling2D", [(3, 8, 8)], {"output_size": 3}),
    ("GridGenerator", [(6,)], {"transform_type": "affine", "target_shape": (3, 4)}),
    ("GridGenerator", [(2, 3, 4)], {"transform_type": "warp"}),
    ("ROIPooling", [(3, 8, 8), (2, 5)], {"pooled_size": (2, 2), "spatial_scale": 0.5}),
    ("_contrib_box_decode", [(3, 4), (1, 3, 4)], {}),
    ("_contrib_box_nms", [(9, 6)], {"id_index": 0, "topk": 5}),
    ("dot", [(3, 4), (4, 5)], {}),
    ("_linalg_gemm2", [(4,), (4, 5)], {"alpha": 2}),
    ("Embedding", [(3,), (5, 2)], {"input_dim": 5, "output_dim": 2}),
    ("SequenceLast", [(3, 4)], {"axis": 1}),
    ("_contrib_arange_like", [(3, 4)], {}),
    ("_contrib_arange_like", [(3, 4)], {"axis": 0}),
    ("_contrib_div_sqrt_dim", [(3, 4)], {}),
    ("zeros_like", [(3, 4)], {}),
    ("shape_array", [(3, 4)], {}),
    ("size_array", [(3, 4)], {}),
    ("slice_like", [(6, 4), (1, 3, 2)], {"axes": (1, 2)}),
    ("Crop", [(3, 6, 6)], {"num_args": 1, "h_w": (2, 2), "center_crop": True}),
    ("reverse", [(3, 4)], {"axis": (0, 2)}),
    ("_split_v2", [(6, 4)], {"indices": (0, 2, 3)}),
    ("_slice_assign_scalar", [(6, 4)], {"begin": (None, 1), "end": (None, 3), "scalar": 1}),
    ("broadcast_axis", [(1, 4)], {"axis": 1, "size": 3}),
    ("tile", [(3, 4)], {"reps": (2, 1)}),
    ("repeat", [(3, 4)], {"repeats": 2, "axis": 0}),
    ("repeat", [(3, 4)], {"repeats": 2}),
    ("depth_to_space", [(8, 2, 2)], {"block_size": 2}),
    ("reshape_like", [(6, 4), (2, 3, 4)], {"lhs_begin": 1, "lhs_end": 2, "rhs_end": -1}),
    ("take", [(6, 4), (2,)], {"axis": 1}),
    ("one_hot", [(3,)], {"depth": 5}),
    ("argmax", [(3, 4)], {"axis": 1}),
    ("topk", [(3, 4)], {"k": 2, "ret_typ": "mask"}),
    ("diag", [(3, 4)], {"axis1": 1, "axis2": 2}),
]


def _converted(
    op: str, batch: int, shapes: list[tuple[int, ...]], attrs: dict[str, Any]
) -> Converted:
    names = ["x", *(f"w{i}" for i in range(1, len(shapes)))]
    arrays = {"x": data(0, batch, *shapes[0])}
    arrays |= {name: data(1, *shape) for name, shape in zip(names[1:], shapes[1:], strict=True)}
    return to_onnx(symbol(op, *map(mx.sym.var, names), **attrs), arrays)


@pytest.mark.parametrize(("op", "shapes", "attrs"), CASES)
def test_the_graph_is_the_same_for_batch_1_and_4(
    op: str, shapes: list[tuple[int, ...]], attrs: dict[str, Any]
) -> None:
    """Byte for byte, nodes and constants."""
    first, second = (_converted(op, batch, shapes, attrs) for batch in (1, 4))
    assert first.body == second.body


@pytest.mark.parametrize(
    "op",
    [
        *("Concat", "elemwise_add", "broadcast_mul", "add_n"),
        *("slice_like", "broadcast_like", "reshape_like"),
    ],
)
def test_joins_are_the_same_for_batch_1_and_4(op: str) -> None:
    """Operators whose inputs all have the batch axis."""
    attrs = {"num_args": 2} if op in ("Concat", "add_n") else {}
    sym = symbol(op, mx.sym.var("x"), mx.sym.var("y"), **attrs)
    first, second = (
        to_onnx(sym, {n: data(0, batch, 3, 4) for n in "xy"}, ("x", "y")) for batch in (1, 4)
    )
    assert first.body == second.body


@pytest.mark.parametrize("axis", [1, -1])
def test_batch_norm_is_the_same_for_batch_1_and_4(axis: int) -> None:
    """On the channels and on another axis."""
    names = ("x", "gamma", "beta", "mean", "variance")
    sym = symbol("BatchNorm", *map(mx.sym.var, names), axis=axis)
    bodies = []
    for batch in (1, 4):
        arrays = {name: data(1, 3, low=0.1) for name in names[1:]}
        bodies.append(to_onnx(sym, arrays | {"x": data(0, batch, 3, 5, 3)}).body)
    assert bodies[0] == bodies[1]


def test_every_registered_operator_exists_in_mxnet() -> None:
    """A misspelt name would never convert anything."""
    for name in mxtrt.convert.ops.registry():
        operator(name)


def test_every_converter_says_what_it_maps_to() -> None:
    """One line at least, for the documentation."""
    assert all(entry.convert.__doc__ for entry in mxtrt.convert.ops.registry().values())
