"""Calibration: runs the user's data through the float32 segments, for the ranges of all tensors.

ONNX Runtime's calibrators collect the ranges, segment by segment.  What a segment reads of MXNet's
operators or of other segments, MXNet computes here as it does at a bind.
"""

from __future__ import annotations

import inspect
import math
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from mxtrt import config
from mxtrt.engines.kinds import KINDS, ONNXRUNTIME, Kind
from mxtrt.errors import EngineError, GraphError, OptionError
from mxtrt.graph.roles import guess_weights
from mxtrt.graph.symbol import Entry, Graph
from mxtrt.node.abi import OPERATOR
from mxtrt.plain.forward import bound
from mxtrt.precision.apply import folded
from mxtrt.precision.int8 import require_quantizer
from mxtrt.precision.quantizer import quantization, quiet
from mxtrt.precision.ranges import (
    KEPT,
    Layer,
    Ranges,
    SegmentRanges,
    TensorRange,
    layers_of,
    structure_of,
    tensors_of,
)
from mxtrt.precision.working import Array, WorkingModel

__all__ = ["METHODS", "Batch", "Chain", "batches_of", "calibrate", "traced"]

#: How ranges are chosen from what was seen.
METHODS = ("entropy", "percentile", "minmax")

#: Arrays by name of the data argument.
Batch = dict[str, Any]


def calibrate(
    net: Any,
    data: Any,
    *,
    params: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    method: str = "minmax",
    samples: int = 512,
    model: str = "",
    keep: Iterable[str] = (),
) -> Ranges:
    """Collect the ranges that ``precision="int8"`` needs.

    Args:
        net: An initialized Gluon block, or an ``mxnet.symbol.Symbol``.
        data: What is usually fed: a ``DataIter``, a ``DataLoader``, or any iterable of batches.
            A batch is an array, a list of arrays in the order of the data arguments (labels that
            follow are left out), or a mapping of arrays by name.
        params: Arguments and auxiliary states of a symbol by name.
        out: Where to write the ranges; give this file as option ``ranges``.
        method: One of :data:`METHODS`: all that was seen (``minmax``), all but a few outliers
            (``percentile``: 99.999 %), or what changes the distribution least (``entropy``).
        samples: How many samples to use, at most.
        model: Name of the model for people; the block's own by default.
        keep: MXNet layers that stay out of int8: their names, ``"first"`` or ``"last"``.  They are
            float16 where the engine computes it, else float32; write ``fp32`` into the file where
            float16 is not enough.

    Raises:
        OptionError: The method, or a name in ``keep``, is not known.
        GraphError: No data came, or they do not fit the symbol.
        EngineError: ONNX Runtime is missing, or no node of the model runs in an engine.
    """
    if method not in METHODS:
        raise OptionError(f"method is {method!r}, expected one of {', '.join(METHODS)}")
    require_quantizer()
    symbol, arrays = (net, dict(params or {})) if params is not None else traced(net)
    names = [name for name in symbol.list_arguments() if name not in arrays]
    found = Ranges(model or type(net).__name__, method, 0)
    ways: list[_Calibration] = []
    for batch in batches_of(data, names):
        if not ways:
            chains = _chains(symbol, arrays, batch, guess=params is not None)
            ways = [_Calibration(chain, method) for chain in chains]
        for way in ways:
            way.collect(batch)
        found.samples += _size(batch)
        if found.samples >= samples:
            break
    if not ways:
        raise GraphError("there are no data to calibrate with; give at least one batch")
    found.segments, *guessed = (way.result() for way in ways)
    known = {segment.structure for segment in found.segments}
    found.guessed = [one for ones in guessed for one in ones if one.structure not in known]
    keep_layers(found, keep)
    if out is not None:
        found.save(out)
    return found


def _chains(
    symbol: Any, arrays: Mapping[str, Any], batch: Batch, *, guess: bool
) -> Iterator[Chain]:
    """The symbol partitioned in every way in which a bind may do it.

    A bind may be told which arguments are weights, or has to guess; and engines differ in the
    dtypes that they take, and in what MXNet keeps because it computes it faster on the CPU.

    Raises:
        EngineError: No node of it runs in an engine, in any way.
    """
    ways: list[frozenset[str] | None] = [None]
    guessed = guess_weights(Graph.of(symbol), config.current().data_names)
    used = {*symbol.list_arguments(), *symbol.list_auxiliary_states()} & arrays.keys()
    if guess and not used <= guessed:
        ways.append(guessed & used)
    found, reason = 0, None
    for weights in ways:
        seen: set[frozenset[str]] = set()
        for kind in KINDS:
            try:
                chain = Chain(symbol, arrays, batch, weights, kind)
            except EngineError as error:
                reason = error
                continue
            found += 1
            if chain.left not in seen:  # otherwise its segments are the same
                seen.add(chain.left)
                yield chain
    if reason is not None and not found:
        raise reason


def keep_layers(found: Ranges, keep: Iterable[str]) -> None:
    """Keep some layers out of int8.

    Raises:
        OptionError: There is no such layer.
    """
    layers = [layer for segment in found.segments for layer in segment.layers]
    for name in keep:
        if name in ("first", "last") and layers:
            layers[0 if name == "first" else -1].precision = KEPT
            continue
        same = [layer for layer in layers if name in (layer.name, layer.source)]
        if not same:
            known = ", ".join(layer.name for layer in layers) or "none"
            raise OptionError(f"there is no layer {name!r} to keep; the layers are: {known}")
        for layer in same:
            layer.precision = KEPT


def traced(net: Any) -> tuple[Any, dict[str, Any]]:
    """Symbol and parameters of a Gluon block.

    Raises:
        GraphError: It is no block, or it was not run yet and its weights have no shapes.
    """
    import mxnet as mx

    if isinstance(net, mx.sym.Symbol):
        raise GraphError("params is missing: a symbol is calibrated with its weights")
    if not isinstance(net, mx.gluon.HybridBlock):
        raise GraphError(f"{type(net).__name__} is no HybridBlock and no symbol")
    count = _inputs_of(net)
    inputs = [mx.sym.var("data" if count == 1 else f"data{i}") for i in range(count)]
    with config.options(enabled=False):
        outputs = net(*inputs)
    symbol = mx.sym.Group(list(outputs)) if isinstance(outputs, (list, tuple)) else outputs
    try:
        params = {name: one.list_data()[0] for name, one in net.collect_params().items()}
    except Exception as error:
        raise GraphError(f"the block has no weights yet; run it once ({error})") from error
    wanted = {*symbol.list_arguments(), *symbol.list_auxiliary_states()}
    return symbol, {name: array for name, array in params.items() if name in wanted}


def _inputs_of(net: Any) -> int:
    """How many inputs a block takes: parameters of its ``hybrid_forward`` behind ``F``.

    Those with a default, and those that Gluon fills with the block's weights, do not count.
    """
    given = [
        p
        for p in inspect.signature(net.hybrid_forward).parameters.values()
        if p.default is p.empty
        and p.kind is p.POSITIONAL_OR_KEYWORD
        and p.name not in net._reg_params
    ]
    return max(len(given) - 1, 1)


def batches_of(data: Any, names: list[str]) -> Iterator[Batch]:
    """Batches by name of the data argument, as NDArrays on the CPU, where calibration runs.

    Args:
        data: See :func:`calibrate`.
        names: The data arguments, labels included.

    Raises:
        GraphError: A batch has fewer arrays than there are data arguments.
    """
    import mxnet as mx

    data_names = [name for name in names if not name.endswith("label")] or names
    if hasattr(data, "reset") and hasattr(data, "provide_data"):
        data.reset()
        given = [item[0] for item in data.provide_data]
    else:
        given = data_names
    for item in data:
        if hasattr(item, "data") and isinstance(item.data, list):
            values = dict(zip(given, item.data, strict=False))
        elif isinstance(item, Mapping):
            values = dict(item)
        else:
            several = isinstance(item, (list, tuple))
            values = dict(zip(data_names, item if several else [item], strict=False))
        missing = [name for name in data_names if name not in values]
        if missing:
            raise GraphError(f"a batch has nothing for the data argument {missing[0]!r}")
        yield {
            name: value.as_in_context(mx.cpu())
            if isinstance(value, mx.nd.NDArray)
            else mx.nd.array(value, mx.cpu())
            for name, value in values.items()
            if name in names
        }


def _size(batch: Batch) -> int:
    return int(next(iter(batch.values())).shape[0])


class Chain:
    """A partitioned symbol that gives what its segments read for some data.

    Args:
        symbol: The symbol.
        arrays: Its arguments and auxiliary states but the data.
        batch: Data that it accepts.
        weights: Which of the arrays are weights, None for all.
        kind: What engines the segments are for; ONNX Runtime runs them here.

    Attributes:
        left: Names of the nodes that stay in MXNet.
        models: The segments in float32, normalisation folded.
    """

    def __init__(
        self,
        symbol: Any,
        arrays: Mapping[str, Any],
        batch: Batch,
        weights: frozenset[str] | None = None,
        kind: Kind = ONNXRUNTIME,
    ) -> None:
        import mxnet as mx

        from mxtrt.hooks.partitioned import partition_symbol
        from mxtrt.plan import graph_pass

        options = config.current().replace(
            engine="onnxruntime",
            precision="fp32",
            prefer="engine",  # what is guessed or measured of fp32 says nothing of int8
            release_weights=False,
            enabled=True,
        )
        graph_pass.prepare(options, mx.cpu())
        args, aux = _arrays_of(symbol, arrays, batch)
        self._arrays = {**args, **aux}
        known = frozenset(arrays) if weights is None else weights
        # Kept for its plan, which owns the engines.
        self._symbol = partition_symbol(symbol, args, aux, mx.cpu(), options, known, kind=kind)
        plan = self._symbol.plan
        self.left = frozenset(left.name for left in plan.report.left)
        if not plan.nodes:
            raise EngineError("no node of the model runs in an engine; mxtrt inspect says why")
        self.models = [folded(*node.calibrated(self._arrays)) for node in plan.nodes]
        self._graph = Graph.of(self._symbol)
        ran = {node.attrs["engine"]: node for node in self._graph.nodes if node.op == OPERATOR}
        #: For every segment the names of its inputs, and what its engine node reads for them.
        self._reads = [(node.inputs, ran[str(node.key)].inputs) for node in plan.nodes]
        read = dict.fromkeys(entry for _, entries in self._reads for entry in entries)
        self._entries = [e for e in read if not self._graph.nodes[e.node].is_variable]

    def feeds(self, batch: Batch) -> Iterator[dict[str, Array]]:
        """What every segment is fed for a batch."""
        values = self._computed(batch) if self._entries else {}
        for names, entries in self._reads:
            yield {
                name: values[entry].asnumpy()
                if entry in values
                else {**self._arrays, **batch}[self._graph.nodes[entry.node].name].asnumpy()
                for name, entry in zip(names, entries, strict=True)
            }

    def _computed(self, batch: Batch) -> dict[Entry, Any]:
        import mxnet as mx

        if not self._symbol.plan.state.built:
            self._symbol.plan.build(self._arrays)
        part = mx.sym.load_json(
            Graph(self._graph.nodes, self._entries, self._graph.attrs).to_json()
        )
        arrays = {**self._arrays, **batch}
        executor = bound(part, arrays, mx.cpu())
        return dict(zip(self._entries, executor.forward(is_train=False), strict=True))


def _arrays_of(
    symbol: Any, arrays: Mapping[str, Any], batch: Batch
) -> tuple[dict[str, Any], dict[str, Any]]:
    """NDArrays on the CPU for all arguments and auxiliary states; zeros where nothing is given.

    Raises:
        GraphError: The symbol does not accept the shapes of the batch.
    """
    import mxnet as mx

    cpu = mx.cpu()
    names = symbol.list_arguments()
    shapes = {name: array.shape for name, array in batch.items() if name in names}
    weights = {name: array.shape for name, array in arrays.items() if name in names}
    known, _, _ = symbol.infer_shape(**{**weights, **shapes})
    if known is None:
        raise GraphError(f"the symbol does not accept data of the shapes {shapes}")
    args = {}
    for name, shape in zip(names, known, strict=True):
        if name in batch:
            args[name] = batch[name]
        else:
            args[name] = arrays[name].as_in_context(cpu) if name in arrays else mx.nd.zeros(shape)
    return args, {name: arrays[name].as_in_context(cpu) for name in symbol.list_auxiliary_states()}


class _Calibration:
    """The calibrators of all segments of a chain."""

    def __init__(self, chain: Chain, method: str) -> None:
        self._chain = chain
        self._collectors = [_Collector(model, method) for model in chain.models]

    def collect(self, batch: Batch) -> None:
        """Run one batch."""
        for collector, feeds in zip(self._collectors, self._chain.feeds(batch), strict=True):
            collector.collect(feeds)

    def result(self) -> list[SegmentRanges]:
        """The ranges of every segment."""
        return [collector.result() for collector in self._collectors]


class _Collector:
    """One segment's calibrator."""

    def __init__(self, model: WorkingModel, method: str) -> None:
        quantization()
        from onnxruntime.quantization import CalibrationMethod
        from onnxruntime.quantization.calibrate import create_calibrator

        self._model = model
        self._folder = tempfile.TemporaryDirectory(prefix="mxtrt-calibrate-")
        path, augmented = (
            str(Path(self._folder.name, name)) for name in ("model.onnx", "augmented.onnx")
        )
        onnx.save(onnx.shape_inference.infer_shapes(model.to_proto(whole=True)), path)
        kind, options = {
            "minmax": (CalibrationMethod.MinMax, {}),
            "percentile": (CalibrationMethod.Percentile, {"symmetric": False}),
            "entropy": (
                CalibrationMethod.Entropy,
                {"num_bins": 1024, "num_quantized_bins": 128, "symmetric": False},
            ),
        }[method]
        self._seen: dict[str, tuple[float, float]] = {}
        self._calibrator = create_calibrator(
            path,
            [],
            augmented_model_path=augmented,
            calibrate_method=kind,
            extra_options=options,
        )
        self._calibrator.set_execution_providers(["CPUExecutionProvider"])

    def collect(self, feeds: Mapping[str, Array]) -> None:
        """Run one batch."""
        with quiet():
            self._calibrator.collect_data(_Once(feeds))

    def result(self) -> SegmentRanges:
        """The ranges of all that was collected."""
        with quiet():
            data = self._calibrator.compute_data()
        found = SegmentRanges(structure_of(self._model), self._model.weights_hash())
        for name in tensors_of(self._model):
            low, high = data[name].range_value if name in data else (math.nan, math.nan)
            found.tensors.append(
                TensorRange(name, float(np.asarray(low).min()), float(np.asarray(high).max()))
            )
        sources = [step.source for step in layers_of(self._model)]
        found.layers = [
            Layer(
                source if (number := sources[:place].count(source)) == 0 else f"{source}:{number}"
            )
            for place, source in enumerate(sources)
        ]
        self._folder.cleanup()
        return found


class _Once:
    """One batch as a data reader of ONNX Runtime's calibrators."""

    def __init__(self, feeds: Mapping[str, Array]) -> None:
        self._feeds: dict[str, Array] | None = dict(feeds)

    def get_next(self) -> dict[str, Array] | None:
        """The batch, then None."""
        feeds, self._feeds = self._feeds, None
        return feeds
