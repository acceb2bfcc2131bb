"""Converters of operators that resample pictures, and of boxes in pictures."""

from __future__ import annotations

import numpy as np

from mxtrt.convert.onnx_builder import tensor_type
from mxtrt.convert.ops.registry import Call, converter
from mxtrt.convert.recipes import scale


@converter("UpSampling", moves_data_only=True, outputs=1)
def up_sampling(call: Call) -> None:
    """``Resize`` that repeats elements, or ``ConvTranspose`` with sample_type=bilinear.

    Further inputs are enlarged to the height of the first's output, and then concatenated along
    the channels or summed.  The bilinear form is a convolution of every channel with the weight
    that is given, whatever that holds (``nn/upsampling-inl.h``).
    """
    call.require_floats()
    kind, scale = call.text("sample_type"), call.integer("scale")
    call.require(call.rank() == 4, f"up-sampling on rank {call.rank()}, not 4")
    call.require(kind in ("nearest", "bilinear"), f"sample_type={kind} is not known")
    if kind == "bilinear":
        _bilinear_up_sampling(call, scale)
        return
    height = call.out_shape()[2]
    count = len(call.inputs)
    outputs = [call.output() if count == 1 else None] * count
    parts = [
        call.emit(
            "Resize",
            [call.input(i), "", call.constant([1, 1, *[height // call.shape(i)[2]] * 2])],
            output=output,
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )
        for i, output in enumerate(outputs)
    ]
    if count == 1:
        return
    if call.text("multi_input_mode", "concat") == "sum":
        call.emit("Sum", parts, output=call.output())
    else:
        call.emit("Concat", parts, output=call.output(), axis=1)


def _bilinear_up_sampling(call: Call, scale: int) -> None:
    channels, filters = call.shape()[1], call.integer("num_filter", 0)
    call.require(filters == channels, f"num_filter={filters} on {channels} channels")
    call.emit(
        "ConvTranspose",
        [call.input(0), call.input(1)],
        output=call.output(),
        kernel_shape=[2 * scale - scale % 2] * 2,
        strides=[scale] * 2,
        pads=[scale // 2] * 4,
        group=channels,
    )


@converter("_contrib_BilinearResize2D", outputs=1, shape_only=(1,))
def bilinear_resize(call: Call) -> None:
    """``Resize`` with mode=linear to the height and width that MXNet inferred in every mode.

    Without align_corners, pixels are areas, and an axis of one output takes the first pixel:
    ONNX's pytorch_half_pixel (``contrib/bilinear_resize-inl.h``).
    """
    call.require_floats()
    call.require(call.rank() == 4, f"a resize on rank {call.rank()}, not 4")
    # Factors keep the batch size out of the graph, which sizes would not.
    sizes = zip(call.shape()[2:], call.out_shape()[2:], strict=True)
    scales = [scale(size, wanted) for size, wanted in sizes]
    aligned = call.flag("align_corners", True)
    call.emit(
        "Resize",
        [call.input(), "", call.constant([1, 1, *scales])],
        output=call.output(),
        mode="linear",
        coordinate_transformation_mode="align_corners" if aligned else "pytorch_half_pixel",
    )


@converter("GridGenerator", outputs=1)
def grid_generator(call: Call) -> None:
    """``MatMul`` of affine matrices with the target's coordinates, or a flow in pixels, scaled.

    Coordinates go from -1 to 1, x before y (``grid_generator-inl.h``).
    """
    call.require_floats()
    kind = call.text("transform_type")
    call.require(kind in ("affine", "warp"), f"transform_type={kind} is not known")
    if kind == "affine":
        target = _target(call)
        grid = _affine_grid(call, call.input(), target)
        shape = call.indices([0, 2, *target])
        call.emit("Reshape", [grid, shape], output=call.output())
        return
    height, width = call.shape()[2:]
    call.require(min(height, width) > 1, "a flow of one row or column, for which MXNet gives NaN")
    y, x = np.mgrid[:height, :width]
    moved = call.emit("Add", [call.input(), call.constant(np.stack([x, y]))])
    half = call.constant(np.reshape([(width - 1) / 2, (height - 1) / 2], (2, 1, 1)))
    scaled = call.emit("Div", [moved, half])
    call.emit("Sub", [scaled, call.constant(1)], output=call.output())


def _target(call: Call) -> tuple[int, ...]:
    target = call.integers("target_shape", (0, 0))
    call.require(len(target) == 2, f"target_shape={target} is not a height and a width")
    call.require(min(target) > 1, f"target_shape={target}, for which MXNet gives NaN")
    return target


def _affine_grid(call: Call, matrices: str, target: tuple[int, ...]) -> str:
    """Where the target's pixels come from: ``(batch, 2, height * width)``."""
    height, width = target
    y, x = np.mgrid[:height, :width].reshape(2, -1)
    places = [x * (2 / (width - 1)) - 1, y * (2 / (height - 1)) - 1, np.ones(height * width)]
    matrices = call.emit("Reshape", [matrices, call.indices([0, 2, 3])])
    return call.emit("MatMul", [matrices, call.constant(np.stack(places))])


@converter("BilinearSampler", outputs=1)
def bilinear_sampler(call: Call) -> None:
    """``GridSample`` with zeros around the data and the corners at -1 and 1."""
    call.require_floats()
    grid = call.emit("Transpose", [call.input(1)], perm=[0, 2, 3, 1])
    _sample(call, grid)


@converter("SpatialTransformer", outputs=1)
def spatial_transformer(call: Call) -> None:
    """``GridSample`` at coordinates that affine matrices give, as in GridGenerator."""
    call.require_floats()
    target = _target(call)
    grid = _affine_grid(call, call.input(1), target)
    last = call.emit("Transpose", [grid], perm=[0, 2, 1])
    _sample(call, call.emit("Reshape", [last, call.indices([0, *target, 2])]))


def _sample(call: Call, grid: str) -> None:
    # MXNet infers the shapes without a look at it, and reads beyond the array.
    call.require(call.shape(1)[0] == call.shape()[0], "other coordinates than for each picture")
    call.emit(
        "GridSample",
        [call.input(), grid],
        output=call.output(),
        mode="bilinear",
        padding_mode="zeros",
        align_corners=1,
    )


@converter("_contrib_ROIAlign", outputs=1)
def roi_align(call: Call) -> None:
    """``RoiAlign`` with the mean; the first number of a region is the index of its picture.

    A region of a negative index is padding and gives zeros, as MXNet documents it: its kernel for
    CPUs leaves the output as it was in memory.
    """
    call.require_floats()
    call.require(not call.flag("position_sensitive"), "position_sensitive=True")
    height, width = call.integers("pooled_size")
    index, boxes = call.fresh("index"), call.fresh("boxes")
    call.emit_many("Split", [call.input(1), call.indices([1, 4])], [index, boxes], axis=1)
    index = call.emit("Cast", [index], to=tensor_type(np.dtype(np.int64)))
    zero = call.constant(0, np.int64)
    picture = call.emit("Squeeze", [call.emit("Max", [index, zero]), call.indices([1])])
    aligned = call.flag("aligned")
    pooled = call.emit(
        "RoiAlign",
        [call.input(), boxes, picture],
        coordinate_transformation_mode="half_pixel" if aligned else "output_half_pixel",
        output_height=height,
        output_width=width,
        sampling_ratio=max(call.integer("sample_ratio", -1), 0),
        spatial_scale=call.number("spatial_scale"),
    )
    padding = call.emit("Less", [index, zero])
    padding = call.emit("Unsqueeze", [padding, call.indices([2, 3])])
    call.emit("Where", [padding, call.constant(0), pooled], output=call.output())


@converter(
    "ROIPooling",
    outputs=1,
    not_in_half="corners of regions are rounded to float16",
    not_on_gpu="nothing pools regions with rounded borders",
)
def roi_pooling(call: Call) -> None:
    """``MaxRoiPool``; the first number of a region is the index of its picture.

    A region of no picture gives zeros, as does one beside its picture, which stands for it here.
    """
    call.require_floats()
    index, boxes = call.fresh("index"), call.fresh("boxes")
    call.emit_many("Split", [call.input(1), call.indices([1, 4])], [index, boxes], axis=1)
    index = call.emit("Cast", [index], to=tensor_type(np.dtype(np.int32)))
    zero = call.constant(0, np.int32)
    limits = [call.indices([number]) for number in (0, 1)]
    pictures = call.emit("Slice", [call.emit("Shape", [call.input()]), *limits])
    pictures = call.emit("Cast", [pictures], to=tensor_type(np.dtype(np.int32)))
    low, high = call.emit("Less", [index, zero]), call.emit("Less", [index, pictures])
    none = call.emit("Or", [low, call.emit("Not", [high])])
    index = call.emit("Where", [none, zero, index])
    index = call.emit("Cast", [index], to=tensor_type(np.dtype(np.float32)))
    boxes = call.emit("Where", [none, call.constant(-1e9), boxes])
    call.emit(
        "MaxRoiPool",
        [call.input(), call.emit("Concat", [index, boxes], axis=1)],
        output=call.output(),
        pooled_shape=call.integers("pooled_size"),
        spatial_scale=call.number("spatial_scale"),
    )


@converter("_contrib_box_decode", outputs=1)
def box_decode(call: Call) -> None:
    """Arithmetic on offsets from anchors; the boxes are (xmin, ymin, xmax, ymax).

    Anchors are corners too, or with format=center a centre and a size; offsets of sizes are
    logarithms (``contrib/bounding_box-inl.h``).
    """
    call.require_floats()
    kind = call.text("format", "center")
    call.require(kind in ("corner", "center"), f"format={kind} is not known")
    call.require(call.shape(1)[:-1] == (1, call.shape()[1]), "anchors of several pictures")
    place, size, shift, growth = (call.fresh(h) for h in ("place", "size", "shift", "growth"))
    call.emit_many("Split", [call.input(1)], [place, size], axis=2)
    call.emit_many("Split", [call.input(0)], [shift, growth], axis=2)
    half = call.constant(0.5)
    if kind == "corner":
        size = call.emit("Sub", [size, place])
        place = call.emit("Add", [place, call.emit("Mul", [size, half])])
    deviations = [call.number(f"std{i}", 1.0) for i in range(4)]
    scaled = call.emit("Mul", [shift, call.constant(deviations[:2])])
    centre = call.emit("Add", [call.emit("Mul", [scaled, size]), place])
    growth = call.emit("Mul", [growth, call.constant(deviations[2:])])
    limit = call.number("clip", -1.0)
    if limit > 0:
        bound = call.constant(limit)  # not Min: MXNet takes the bound for a NaN
        growth = call.emit("Where", [call.emit("Less", [growth, bound]), growth, bound])
    grown = call.emit("Mul", [call.emit("Exp", [growth]), size])
    reach = call.emit("Mul", [grown, half])
    corners = [call.emit(op_type, [centre, reach]) for op_type in ("Sub", "Add")]
    call.emit("Concat", corners, output=call.output(), axis=2)
