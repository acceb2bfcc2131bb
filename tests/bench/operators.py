"""Operators of the sizes that networks have, each with the shapes of its data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import mxnet as mx

Symbol = mx.sym.Symbol
Shape = tuple[int, ...]


class Subject(NamedTuple):
    """A graph of one operator, or of few.

    Attributes:
        make: Makes the symbol from variables for its data; other variables are weights.
        shapes: Shapes of its data.
        below: Data are whole numbers below this one; 0 for normally distributed ones.
    """

    make: Callable[..., Symbol]
    shapes: tuple[Shape, ...]
    below: int = 0


def _conv(kernel: Shape, filters: int, pad: int = 0, **attrs: Any) -> Callable[[Symbol], Symbol]:
    attrs = {"pad": (pad,) * len(kernel), **attrs}
    return lambda x: mx.sym.Convolution(x, kernel=kernel, num_filter=filters, **attrs)


def _deconv(kernel: Shape, filters: int, **attrs: Any) -> Callable[[Symbol], Symbol]:
    return lambda x: mx.sym.Deconvolution(x, kernel=kernel, num_filter=filters, **attrs)


def _pool(kernel: Shape, kind: str, **attrs: Any) -> Callable[[Symbol], Symbol]:
    return lambda x: mx.sym.Pooling(x, kernel=kernel, pool_type=kind, **attrs)


def _dense(units: int, **attrs: Any) -> Callable[[Symbol], Symbol]:
    return lambda x: mx.sym.FullyConnected(x, num_hidden=units, **attrs)


def _recurrent(mode: str, batch: int, size: int, layers: int = 1) -> Callable[[Symbol], Symbol]:
    def make(x: Symbol) -> Symbol:
        states = [mx.sym.zeros((layers, batch, size))] * (2 if mode == "lstm" else 1)
        weights = mx.sym.var("parameters")
        return mx.sym.RNN(x, weights, *states, mode=mode, state_size=size, num_layers=layers)

    return make


def _sampled(x: Symbol, grid: Symbol) -> Symbol:
    return mx.sym.BilinearSampler(x, mx.sym.tanh(grid))


def _transformed(x: Symbol, matrices: Symbol) -> Symbol:
    return mx.sym.SpatialTransformer(
        x, matrices, target_shape=(64, 64), transform_type="affine", sampler_type="bilinear"
    )


def _aligned(x: Symbol, boxes: Symbol) -> Symbol:
    # Regions that begin near the corner, of the first picture.
    sides = mx.sym.broadcast_mul(mx.sym.abs(boxes), mx.sym.reshape(mx.sym.arange(5), (1, 5)))
    regions = mx.sym.broadcast_mul(sides, mx.sym.reshape(mx.sym.arange(0, 100, 20), (1, 5)))
    return mx.sym.contrib.ROIAlign(
        x, regions, pooled_size=(7, 7), spatial_scale=0.0625, sample_ratio=2
    )


def _products(batch: int) -> Iterator[tuple[str, Subject]]:
    """Convolutions, dense layers and attention at a batch size."""
    b = batch
    convolutions: dict[str, tuple[Callable[..., Symbol], Shape]] = {
        "7x7": (_conv((7, 7), 64, 3, stride=(2, 2)), (b, 3, 224, 224)),
        "11x11": (_conv((11, 11), 96, stride=(4, 4)), (b, 3, 227, 227)),
        "5x5": (_conv((5, 5), 256, 2), (b, 96, 27, 27)),
        "3x3 of 64": (_conv((3, 3), 64, 1), (b, 64, 56, 56)),
        "3x3 of 256": (_conv((3, 3), 256, 1), (b, 256, 14, 14)),
        "3x3 of 512": (_conv((3, 3), 512, 1), (b, 512, 7, 7)),
        "1x1": (_conv((1, 1), 256), (b, 64, 56, 56)),
        "depthwise": (_conv((3, 3), 128, 1, num_group=128), (b, 128, 56, 56)),
        "32 groups": (_conv((3, 3), 128, 1, num_group=32), (b, 128, 56, 56)),
        "1d": (_conv((3,), 256, 1), (b, 128, 200)),
        "3d": (_conv((3, 3, 3), 32, 1), (b, 32, 8, 56, 56)),
        "3d of points": (_conv((1, 1, 1), 64), (b, 192, 8, 28, 28)),
        "3d depthwise": (_conv((3, 3, 3), 64, 1, num_group=64), (b, 64, 8, 28, 28)),
    }
    for name, (make, shape) in convolutions.items():
        yield f"conv/{name}/{b}", Subject(make, (shape,))
    by_two: dict[str, Any] = {"stride": (2, 2), "pad": (1, 1)}
    yield f"deconv/4x4/{b}", Subject(_deconv((4, 4), 128, **by_two), ((b, 256, 16, 16),))
    bilinear = _deconv((4, 4), 21, num_group=21, **by_two)
    yield f"deconv/bilinear/{b}", Subject(bilinear, ((b, 21, 32, 32),))
    volume = _deconv((2, 2, 2), 32, stride=(2, 2, 2))
    yield f"deconv/3d/{b}", Subject(volume, ((b, 64, 8, 16, 16),))
    yield f"dense/4096/{b}", Subject(_dense(4096), ((b, 4096),))
    yield f"dense/1000/{b}", Subject(_dense(1000), ((b, 512),))
    yield f"dense/bert/{b}", Subject(_dense(3072, flatten=False), ((128, b, 768),))
    scores = mx.sym.contrib.interleaved_matmul_selfatt_qk
    yield f"attention/{b}", Subject(lambda x: scores(x, heads=12), ((128, b, 2304),))
    yield f"LRN/{b}", Subject(lambda x: mx.sym.LRN(x, nsize=5), ((b, 96, 55, 55),))
    yield f"BilinearSampler/{b}", Subject(_sampled, ((b, 32, 64, 64), (b, 2, 64, 64)))
    yield f"SpatialTransformer/{b}", Subject(_transformed, ((b, 32, 64, 64), (b, 6)))
    for mode in ("lstm", "gru", "rnn_tanh"):
        for length, size in ((100, 256), (200, 64)):
            layer = _recurrent(mode, b, size)
            yield f"{mode}/{length}x{size}/{b}", Subject(layer, ((length, b, size),))


def _others() -> Iterator[tuple[str, Subject]]:
    features = (8, 64, 56, 56)
    for name in ("relu", "sigmoid", "tanh", "exp", "log1p", "sqrt", "square", "erf"):
        yield f"one/{name}", Subject(getattr(mx.sym, name), (features,))
    for kind in ("leaky", "elu", "selu", "gelu", "prelu"):
        leaky = lambda x, kind=kind: mx.sym.LeakyReLU(x, act_type=kind)  # noqa: E731
        yield f"one/{kind}", Subject(leaky, (features,))
    soft = lambda x: mx.sym.Activation(x, act_type="softrelu")  # noqa: E731
    yield "one/softrelu", Subject(soft, (features,))
    yield "two/elemwise_add", Subject(mx.sym.elemwise_add, (features, features))
    for name in ("broadcast_add", "broadcast_mul", "broadcast_maximum", "broadcast_greater"):
        yield f"two/{name}", Subject(getattr(mx.sym, name), (features, (1, 64, 1, 1)))
    for name in ("sum", "mean", "max", "prod", "norm", "argmax"):
        reduce = getattr(mx.sym, name)
        yield f"reduce/{name}", Subject(lambda x, f=reduce: f(x, axis=1), (features,))
    sizes = {"classes": (64, 1000), "attention": (192, 128, 128), "words": (16, 30000)}
    for size, shape in sizes.items():
        for name in ("softmax", "log_softmax"):
            yield f"{name}/{size}", Subject(getattr(mx.sym, name), (shape,))
    pixels = lambda x: mx.sym.softmax(x, axis=1)  # noqa: E731
    yield "softmax/pixels", Subject(pixels, ((1, 21, 480, 480),))
    for kind in ("max", "avg"):
        small = _pool((3, 3), kind, stride=(2, 2), pad=(1, 1))
        yield f"pool/{kind}", Subject(small, ((1, 64, 112, 112),))
        yield f"pool/{kind} of 13", Subject(_pool((13, 13), kind), ((1, 512, 20, 20),))
        last = _pool((3, 3), kind, stride=(2, 2), layout="NHWC")
        yield f"pool/{kind} NHWC", Subject(last, ((1, 112, 112, 64),))
        volume = _pool((2, 2, 2), kind, stride=(2, 2, 2))
        yield f"pool/{kind} 3d", Subject(volume, ((1, 64, 8, 56, 56),))
        everything = _pool((7, 7), kind, global_pool=True)
        yield f"pool/{kind} global", Subject(everything, ((8, 2048, 7, 7),))
    yield "norm/batch", Subject(mx.sym.BatchNorm, (features,))
    yield "norm/instance", Subject(mx.sym.InstanceNorm, ((1, 64, 128, 128),))
    grouped = lambda x: mx.sym.GroupNorm(x, num_groups=32)  # noqa: E731
    yield "norm/group", Subject(grouped, ((4, 256, 28, 28),))
    yield "norm/layer", Subject(mx.sym.LayerNorm, ((512, 768),))
    yield "norm/L2", Subject(mx.sym.L2Normalization, ((64, 512),))
    yield "dot", Subject(mx.sym.dot, ((512, 512), (512, 512)))
    yield "batch_dot", Subject(mx.sym.batch_dot, ((192, 128, 64), (192, 64, 128)))
    yield "ROIAlign", Subject(_aligned, ((1, 256, 50, 50), (100, 5)))
    larger = lambda x: mx.sym.contrib.BilinearResize2D(x, height=480, width=480)  # noqa: E731
    yield "resize", Subject(larger, ((1, 21, 60, 60),))
    words = lambda i: mx.sym.relu(mx.sym.Embedding(i, input_dim=30000, output_dim=300))  # noqa: E731
    yield "move/Embedding", Subject(words, ((64, 128),), 30000)
    yield "where", Subject(mx.sym.where, (features,) * 3)
    yield "cumsum", Subject(lambda x: mx.sym.cumsum(x, axis=1), (features,))
    yield "one_hot", Subject(lambda i: mx.sym.one_hot(i, 1000), ((64, 32),), 1000)
    yield "pick", Subject(lambda x, i: mx.sym.pick(mx.sym.relu(x), i), ((512, 1000), (512,)), 1000)
    yield "topk", Subject(lambda x: mx.sym.topk(x, k=5), ((64, 1000),))
    nearest = lambda x: mx.sym.UpSampling(x, scale=2, sample_type="nearest")  # noqa: E731
    moves: dict[str, tuple[Callable[..., Symbol], Shape]] = {
        "UpSampling": (nearest, (1, 256, 26, 26)),
        "transpose": (lambda x: mx.sym.transpose(x, (0, 2, 3, 1)), features),
        "heads": (lambda x: mx.sym.transpose(x, (0, 2, 1, 3)), (16, 128, 12, 64)),
        "slice": (lambda x: mx.sym.slice_axis(x, axis=1, begin=0, end=32), features),
        "tile": (lambda x: mx.sym.tile(x, (1, 4)), (512, 512)),
        "repeat": (lambda x: mx.sym.repeat(x, 4, axis=1), (512, 512)),
        "concat": (lambda x: mx.sym.concat(x, x * 2, dim=1), features),
    }
    for name, (move, shape) in moves.items():
        yield f"move/{name}", Subject(lambda x, move=move: mx.sym.relu(move(x)), (shape,))


#: By name.
SUBJECTS: dict[str, Subject] = {**dict(_products(1)), **dict(_products(16)), **dict(_others())}
