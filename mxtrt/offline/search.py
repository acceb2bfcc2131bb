"""Which layers to keep out of int8 so that accuracy stays: the fewest, the worst ones first."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mxtrt import config
from mxtrt.errors import EngineError
from mxtrt.observe.report import last_report
from mxtrt.offline.calibration import Batch, Chain
from mxtrt.offline.layer_errors import LayerErrors
from mxtrt.plain.forward import bound
from mxtrt.precision.ranges import KEPT, Layer, Ranges

__all__ = ["Answers", "Kept", "answers", "keep_accuracy", "layer_errors"]

LABEL = "label"


@dataclass(frozen=True, slots=True)
class Answers:
    """Classes that a model gives, and the right ones where the data say them."""

    classes: Any
    labels: Any

    @property
    def accuracy(self) -> float | None:
        """Part of the classes that are right; None where nobody knows."""
        return None if self.labels is None else float(np.mean(self.classes == self.labels))

    def agreement(self, other: Answers) -> float:
        """Part of the classes that are the same."""
        return float(np.mean(self.classes == other.classes))


@dataclass(frozen=True, slots=True)
class Kept:
    """What the search found.

    Attributes:
        layers: The layers that stay out of int8, worst first.
        of: How many layers there are.
        before: Accuracy (or agreement with float32) with every layer in int8.
        after: The same without these layers.
        float32: The same with all of them.
    """

    layers: list[str]
    of: int
    before: float
    after: float
    float32: float


def answers(
    symbol: Any, arrays: Mapping[str, Any], batches: Iterable[Batch], **options: Any
) -> Answers:
    """The classes that a symbol's first output gives, axis 1 being that of the classes.

    Args:
        symbol: An ``mxnet.symbol.Symbol``.
        arrays: Its arguments and auxiliary states but the data.
        batches: Data by name, with the right classes as ``label`` or under a name that ends so.
        options: Options of the bind.

    Raises:
        EngineError: The symbol was left to MXNet where the options want engines.
    """
    import mxnet as mx

    executors: dict[Any, Any] = {}
    classes, labels = [], []
    names = symbol.list_arguments()
    for batch in batches:
        right = [array for name, array in batch.items() if name.endswith(LABEL)]
        data = {name: array for name, array in batch.items() if name in names}
        shapes = tuple(sorted((name, array.shape) for name, array in data.items()))
        if shapes not in executors:
            given = {name: array.shape for name, array in arrays.items() if name in names}
            known, _, _ = symbol.infer_shape(**{**given, **dict(shapes)})
            args = {
                name: data[name].copy() if name in data else arrays.get(name, mx.nd.zeros(shape))
                for name, shape in zip(names, known, strict=True)
            }
            states = {name: arrays[name] for name in symbol.list_auxiliary_states()}
            executors[shapes] = _executor(symbol, args, states, list(data), options)
        output = executors[shapes].forward(is_train=False, **data)[0].asnumpy()
        classes.append(output.argmax(1).ravel())
        if right:
            labels.append(right[0].asnumpy().ravel())
    return Answers(np.concatenate(classes), np.concatenate(labels) if labels else None)


def _executor(
    symbol: Any,
    args: Mapping[str, Any],
    states: Mapping[str, Any],
    data_names: list[str],
    options: Mapping[str, Any],
) -> Any:
    """An executor with engines, or with the option ``enabled=False`` MXNet's own.

    Raises:
        EngineError: The symbol was left to MXNet where engines are wanted.
    """
    import mxnet as mx

    if not options.get("enabled", True):
        return bound(symbol, {**args, **states}, mx.cpu())
    with config.options(**{"data_names": data_names, **options}):
        executor = symbol.bind(mx.cpu(), args, aux_states=states, grad_req="null")
    report = last_report()
    if report is None or report.reason:
        raise EngineError(report.reason if report else "nothing was bound")
    return executor


def layer_errors(
    symbol: Any,
    arrays: Mapping[str, Any],
    batches: Iterable[Batch],
    precision: str,
    ranges: Ranges | None = None,
    most: int = 4,
) -> list[tuple[str, float]]:
    """The error of every layer on its own, in order; see :class:`LayerErrors`.

    Args:
        symbol: An ``mxnet.symbol.Symbol``.
        arrays: Its arguments and auxiliary states but the data.
        batches: Data by name.
        precision: ``"fp16"`` or ``"int8"``.
        ranges: What int8 needs.
        most: How many batches to use.
    """
    chain: Chain | None = None
    found: list[LayerErrors] = []
    for place, batch in enumerate(batches):
        if place >= most:
            break
        if chain is None:
            chain = Chain(symbol, arrays, batch)
            found = [
                LayerErrors(model, precision, None if ranges is None else ranges.find(model))
                for model in chain.models
            ]
        for errors, feeds in zip(found, chain.feeds(batch), strict=True):
            errors.collect(feeds)
    return [error for errors in found for error in errors.result()]


def keep_accuracy(
    symbol: Any,
    arrays: Mapping[str, Any],
    batches: Callable[[], Iterable[Batch]],
    ranges: Ranges,
    allowed: float,
) -> Kept:
    """Keep out of int8 the fewest layers, in the order of their errors, that accuracy needs.

    The number is found by bisection, which assumes that fewer layers in int8 are no worse.

    Args:
        symbol: An ``mxnet.symbol.Symbol``.
        arrays: Its arguments and auxiliary states but the data.
        batches: Gives the data, with labels or without, as often as it is called.
        ranges: The ranges; the layers found are marked in it.
        allowed: How much accuracy may fall, or agreement with float32 where there are no labels:
            0.005 for half a point.
    """
    layers = [layer for segment in ranges.segments for layer in segment.layers]
    float32 = answers(symbol, arrays, batches(), precision="fp32")
    errors = [error for _, error in layer_errors(symbol, arrays, batches(), "int8", ranges)]
    order = sorted(range(len(layers)), key=lambda place: -errors[place])
    goal = (1.0 if float32.accuracy is None else float32.accuracy) - allowed
    scores: dict[int, float] = {}

    def score(count: int) -> float:
        if count not in scores:
            _mark(layers, order[:count])
            with tempfile.TemporaryDirectory(prefix="mxtrt-") as folder:
                path = Path(folder, "ranges.json")
                ranges.save(path)
                seen = answers(symbol, arrays, batches(), precision="int8", ranges=path)
            accuracy = seen.accuracy
            scores[count] = seen.agreement(float32) if accuracy is None else accuracy
        return scores[count]

    low, high = 0, len(layers)
    if score(0) < goal:
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if score(middle) >= goal else (middle, high)
    else:
        high = 0
    after = score(high)
    _mark(layers, order[:high])
    return Kept(
        [layers[place].name for place in order[:high]],
        len(layers),
        scores[0],
        after,
        1.0 if float32.accuracy is None else float32.accuracy,
    )


def _mark(layers: list[Layer], kept: Iterable[int]) -> None:
    for layer in layers:
        layer.precision = "int8"
    for place in kept:
        layers[place].precision = KEPT
