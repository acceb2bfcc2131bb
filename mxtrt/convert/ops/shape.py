"""Converters of operators that move data: shapes, axes, joins and padding."""

from __future__ import annotations

from math import prod

from mxtrt.convert.ops.registry import NUMBERS, Call, converter
from mxtrt.errors import Unsupported


@converter("Concat", "concat", moves_data_only=True, outputs=1)
def concat(call: Call) -> None:
    """``Concat`` along ``dim``, 1 by default."""
    call.require_numbers()
    names = [call.input(i) for i in range(len(call.inputs))]
    call.emit("Concat", names, output=call.output(), axis=call.axis("dim", 1))


@converter("_npi_concatenate", moves_data_only=True, outputs=1)
def concatenate(call: Call) -> None:
    """``Concat`` along ``axis``, the first by default."""
    call.require_numbers()
    # MXNet writes the flat shape over those of its inputs.
    call.require(call.node.attrs.get("axis") != "None", "axis=None")
    names = [call.input(i) for i in range(len(call.inputs))]
    call.emit("Concat", names, output=call.output(), axis=call.axis("axis", 0))


@converter("stack", "_npi_stack", moves_data_only=True, outputs=1)
def stack(call: Call) -> None:
    """``Concat`` of the inputs with a new axis, the first by default."""
    call.require_numbers()
    axis = call.axis("axis", 0, rank=call.rank() + 1)
    axes = call.indices([axis])
    names = [call.emit("Unsqueeze", [call.input(i), axes]) for i in range(len(call.inputs))]
    call.emit("Concat", names, output=call.output(), axis=axis)


@converter("Flatten", "flatten", "_npx_batch_flatten", moves_data_only=True, outputs=1)
def flatten(call: Call) -> None:
    """``Flatten`` of every axis but the first."""
    call.require_numbers()
    call.emit("Flatten", [call.input()], output=call.output(), axis=1)


@converter(
    "Reshape",
    "reshape",
    "_np_reshape",
    "_npx_reshape",
    "_npi_reshape",
    moves_data_only=True,
    outputs=1,
)
def reshape(call: Call) -> None:
    """``Reshape`` to the shape that MXNet inferred, whatever codes it was written with.

    MXNet keeps the order of the elements in memory under every code (0, -1, -2, -3, -4 and
    ``reverse``; the operators of its NumPy interface have others), so the inferred shape says
    all.  The first axis is kept (0) or left to be inferred (-1), which keeps the batch size out
    of the graph.
    """
    call.require_numbers()
    shape, target = call.shape(), call.out_shape()
    call.require(prod(shape) == prod(target), "the target shape has another size")
    reshape_to_output(call, call.input())


@converter("reshape_like", "_npx_reshape_like", moves_data_only=True, outputs=1, shape_only=(1,))
def reshape_like(call: Call) -> None:
    """``Reshape`` of some axes to the sizes of some axes of the second input."""
    for tensor in (call.inputs[0], call.outputs[0]):
        call.require_dtype(tensor, NUMBERS)
    reshape_to_output(call, call.input())


def reshape_to_output(call: Call, data: str) -> None:
    """``Reshape`` to the output's shape; the batch, the first axis, is kept or inferred."""
    target = list(call.out_shape())
    if target:
        target[0] = 0 if target[0] == call.shape()[0] else -1
    call.emit("Reshape", [data, call.indices(target)], output=call.output())


@converter("transpose", "_np_transpose", moves_data_only=True, outputs=1)
def transpose(call: Call) -> None:
    """``Transpose``; no ``axes`` means all of them reversed."""
    call.require_numbers()
    rank = call.rank()
    axes = call.integers("axes", ()) or tuple(reversed(range(rank)))
    if call.node.op == "_np_transpose":
        axes = tuple(axis % rank for axis in axes)
    call.require(sorted(axes) == list(range(rank)), f"axes={axes} is not a permutation")
    call.emit("Transpose", [call.input()], output=call.output(), perm=axes)


@converter("SwapAxis", "swapaxes", "_npi_swapaxes", moves_data_only=True, outputs=1)
def swap_axis(call: Call) -> None:
    """``Transpose`` of two axes."""
    call.require_numbers()
    order = list(range(call.rank()))
    first, second = call.axis("dim1", 0), call.axis("dim2", 0)
    order[first], order[second] = second, first
    call.emit("Transpose", [call.input()], output=call.output(), perm=order)


@converter("_np_moveaxis", moves_data_only=True, outputs=1)
def move_axis(call: Call) -> None:
    """``Transpose`` that puts some axes where they are wanted and keeps the order of the others."""
    call.require_numbers()
    rank = call.rank()
    source, destination = (
        [axis % rank for axis in call.integers(key)] for key in ("source", "destination")
    )
    order = [axis for axis in range(rank) if axis not in source]
    for place, axis in sorted(zip(destination, source, strict=True)):
        order.insert(place, axis)
    call.emit("Transpose", [call.input()], output=call.output(), perm=order)


@converter("expand_dims", "_npi_expand_dims", moves_data_only=True, outputs=1)
def expand_dims(call: Call) -> None:
    """``Unsqueeze`` of one axis, counted in the output."""
    call.require_numbers()
    axes = call.indices([call.axis("axis", rank=call.rank() + 1)])
    call.emit("Unsqueeze", [call.input(), axes], output=call.output())


@converter("squeeze", "_np_squeeze", moves_data_only=True, outputs=1)
def squeeze(call: Call) -> None:
    """``Squeeze``; without ``axis`` every axis of size one, the batch too.

    MXNet makes a tensor of one axis where ONNX would make one of none.
    """
    call.require_numbers()
    shape = call.shape()
    given = call.integers("axis", ())
    axes = sorted(i % len(shape) for i in given) or [i for i, n in enumerate(shape) if n == 1]
    left = tuple(n for i, n in enumerate(shape) if i not in axes)
    if left != call.out_shape():
        reshape_to_output(call, call.input())
    elif axes:
        call.emit("Squeeze", [call.input(), call.indices(axes)], output=call.output())
    else:
        call.emit("Identity", [call.input()], output=call.output())


@converter("depth_to_space", moves_data_only=True, outputs=1)
def depth_to_space(call: Call) -> None:
    """``DepthToSpace`` in the order depth, column, row: blocks are the slowest of the channels."""
    call.require_numbers()
    block = call.integer("block_size")
    if call.dtype().kind == "f":
        call.emit("DepthToSpace", [call.input()], output=call.output(), blocksize=block, mode="DCR")
        return
    # ONNX Runtime has no DepthToSpace of integers.
    _, depth, height, width = call.shape()
    split = call.indices([0, block, block, depth // block**2, height, width])
    blocks = call.emit("Reshape", [call.input(), split])
    blocks = call.emit("Transpose", [blocks], perm=[0, 3, 4, 1, 5, 2])
    reshape_to_output(call, blocks)


@converter("space_to_depth", moves_data_only=True, outputs=1)
def space_to_depth(call: Call) -> None:
    """``SpaceToDepth``, the inverse."""
    call.require_numbers()
    block = call.integer("block_size")
    if call.dtype().kind == "f":
        call.emit("SpaceToDepth", [call.input()], output=call.output(), blocksize=block)
        return
    _, depth, height, width = call.shape()
    split = call.indices([0, depth, height // block, block, width // block, block])
    blocks = call.emit("Reshape", [call.input(), split])
    blocks = call.emit("Transpose", [blocks], perm=[0, 3, 5, 1, 2, 4])
    reshape_to_output(call, blocks)


@converter("Pad", "pad", moves_data_only=True, outputs=1)
def pad(call: Call) -> None:
    """``Pad`` of height and width, and depth; MXNet pads neither batch nor channels."""
    call.require_floats()
    mode = call.text("mode")
    if mode not in ("constant", "edge", "reflect"):
        raise Unsupported(f"mode={mode} is not known")
    widths = call.integers("pad_width")
    rank = call.rank()
    call.require(len(widths) == 2 * rank, f"pad_width has {len(widths)} values, not {2 * rank}")
    call.require(min(widths) >= 0, "a negative pad_width")
    call.require(
        mode != "reflect" or max(widths[::2] + widths[1::2]) < min(call.shape()[2:]),
        "a reflection wider than the data",
    )
    value = [call.constant(call.number("constant_value", 0.0))] if mode == "constant" else []
    pads = call.indices(widths[::2] + widths[1::2])
    call.emit("Pad", [call.input(), pads, *value], output=call.output(), mode=mode)
