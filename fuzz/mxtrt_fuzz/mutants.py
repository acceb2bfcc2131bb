"""Seeded mutants: mistakes put into mxtrt on purpose, all of which the oracle must catch.

Each is a patch of one function for the time of a ``with`` block; nothing on disk changes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import time
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np

import mxtrt.convert.general
import mxtrt.engines.shared
import mxtrt.graph.partition
import mxtrt.graph.rewrite
import mxtrt.hooks.bound
import mxtrt.hooks.executor
import mxtrt.hooks.gluon
import mxtrt.plain.forward
import mxtrt.plan.analysis
import mxtrt.plan.engine_node
import mxtrt.plan.freshness
import mxtrt.plan.graph_pass
import mxtrt.plan.inline
import mxtrt.plan.variants
import mxtrt.weights.paging
from mxtrt.convert import onnx_builder
from mxtrt.graph.symbol import Graph
from mxtrt_fuzz import client

__all__ = ["IN_PROGRAMS", "MUTANTS", "Mutant"]

_pipeline: Any = mxtrt.plan.graph_pass


@dataclasses.dataclass(frozen=True, slots=True)
class Mutant:
    """A mistake.

    Attributes:
        name: What is wrong.
        room: The part of mxtrt that it is in.
        planted: Makes it for the time of a ``with`` block.
        operators: Operators whose own lane shows it; empty where whole graphs do.
        exact: Whether only what has to be equal to the bit shows it.
        way: The way to bind in a program in C that shows it; empty for those in Python.
        story: Whether it takes a story to show it.
    """

    name: str
    room: str
    planted: Callable[[], contextlib.AbstractContextManager[Any]]
    operators: tuple[str, ...] = ()
    exact: bool = False
    way: str = ""
    story: bool = False


# -- converters: what they emit is changed on its way into the ONNX model ---------------------

_Emit = Callable[[str, list[str], dict[str, Any]], None]


def _emitting(op_type: str, change: _Emit) -> Callable[[], contextlib.AbstractContextManager[Any]]:
    """Change every ONNX node of a type: ``change`` edits its inputs and attributes in place."""

    def planted() -> contextlib.AbstractContextManager[Any]:
        original = onnx_builder.OnnxBuilder.node

        def node(self: Any, kind: str, inputs: Any, outputs: Any, **attributes: Any) -> None:
            names = list(inputs)
            if kind == op_type:
                change(kind, names, attributes)
            original(self, attributes.pop("op_type", kind), names, outputs, **attributes)

        return mock.patch.object(onnx_builder.OnnxBuilder, "node", node)

    return planted


def _set(key: str, edit: Callable[[Any], Any]) -> _Emit:
    def change(kind: str, inputs: list[str], attributes: dict[str, Any]) -> None:
        attributes[key] = edit(attributes.get(key))

    return change


def _as(other: str) -> _Emit:
    def change(kind: str, inputs: list[str], attributes: dict[str, Any]) -> None:
        attributes["op_type"] = other

    return change


def _without_bias(kind: str, inputs: list[str], attributes: dict[str, Any]) -> None:
    del inputs[2:]


def _swapped(first: int, second: int) -> _Emit:
    def change(kind: str, inputs: list[str], attributes: dict[str, Any]) -> None:
        if len(inputs) > max(first, second):
            inputs[first], inputs[second] = inputs[second], inputs[first]

    return change


def _turned(values: Any) -> list[int]:
    return [*values[:-2], values[-1], values[-2]] if len(values) > 1 else list(values)


def _converter(name: str, op_type: str, change: _Emit, *operators: str) -> Mutant:
    return Mutant(name, "converters", _emitting(op_type, change), operators)


_CONVERTERS = (
    _converter("convolution drops its bias", "Conv", _without_bias, "Convolution"),
    _converter(
        "convolution pads only before",
        "Conv",
        _set("pads", lambda p: [*p[: len(p) // 2], *(0 for _ in p[len(p) // 2 :])]),
        "Convolution",
    ),
    _converter(
        "convolution forgets its stride",
        "Conv",
        _set("strides", lambda s: [1 for _ in s]),
        "Convolution",
    ),
    _converter(
        "convolution forgets its dilation",
        "Conv",
        _set("dilations", lambda d: [1 for _ in d]),
        "Convolution",
    ),
    _converter(
        "deconvolution forgets its adjustment",
        "ConvTranspose",
        _set("output_padding", lambda _: None),
        "Deconvolution",
    ),
    _converter("fully connected drops its bias", "Gemm", _without_bias, "FullyConnected"),
    _converter(
        "concatenation along the wrong axis",
        "Concat",
        _set("axis", lambda axis: max(axis - 1, 0)),
        "Concat",
    ),
    _converter(
        "concatenation in reverse", "Concat", lambda _, inputs, a: inputs.reverse(), "Concat"
    ),
    _converter("transpose swaps two axes", "Transpose", _set("perm", _turned), "transpose"),
    _converter(
        "softmax along the wrong axis",
        "Softmax",
        _set("axis", lambda axis: max(axis - 1, 0)),
        "softmax",
    ),
    _converter(
        "batch norm with another epsilon",
        "BatchNormalization",
        _set("epsilon", lambda e: 10 * e),
        "BatchNorm",
    ),
    _converter(
        "batch norm swaps gamma and beta", "BatchNormalization", _swapped(1, 2), "BatchNorm"
    ),
    _converter("batch norm swaps mean and beta", "BatchNormalization", _swapped(2, 3), "BatchNorm"),
    _converter(
        "instance norm with another epsilon",
        "InstanceNormalization",
        _set("epsilon", lambda e: 2 * e),
        "InstanceNorm",
    ),
    _converter("LRN with ONNX's default bias", "LRN", _set("bias", lambda _: 1.0), "LRN"),
    _converter(
        "average counts its padding always",
        "AveragePool",
        _set("count_include_pad", lambda _: 1),
        "Pooling",
    ),
    _converter(
        "maximum pooling without padding at the end",
        "MaxPool",
        _set("pads", lambda p: [*p[: len(p) // 2], *p[: len(p) // 2]]),
        "Pooling",
    ),
    _converter(
        "leaky slope of ONNX's default", "LeakyRelu", _set("alpha", lambda _: 0.01), "LeakyReLU"
    ),
    _converter("ELU with slope one", "Elu", _set("alpha", lambda _: 1.0), "LeakyReLU"),
    _converter("subtraction the wrong way round", "Sub", _swapped(0, 1), "elemwise_sub"),
    _converter("maximum for minimum", "Min", _as("Max"), "_minimum"),
    _converter("maximum for mean", "ReduceMean", _as("ReduceMax"), "mean"),
    _converter("halves rounded up", "LessOrEqual", _as("Less"), "rint"),
    _converter(
        "hard sigmoid with another slope",
        "HardSigmoid",
        _set("alpha", lambda a: 1.01 * a),
        "hard_sigmoid",
    ),
)


# -- numbers: values that are nearly right ---------------------------------------------------


@contextlib.contextmanager
def _rounded_weights(dtype: Any) -> Iterator[None]:
    """Engines are given weights in a lower precision."""
    import mxnet as mx

    original = mxtrt.plan.engine_node.EngineNode.build

    def build(self: Any, arrays: Any, **how: Any) -> None:
        low = {
            name: mx.nd.array(arrays[name].asnumpy().astype(dtype).astype(np.float32))
            for name in self.weights
        }
        original(self, {**arrays, **low}, **how)

    with mock.patch.object(mxtrt.plan.engine_node.EngineNode, "build", build):
        yield


@contextlib.contextmanager
def _rounded_scalars() -> Iterator[None]:
    """Constants inside models are stored in half precision."""
    original = onnx_builder.OnnxBuilder.constant

    def constant(self: Any, array: Any) -> str:
        if array.dtype == np.float32:
            array = array.astype(np.float16).astype(np.float32)
        return original(self, array)

    with mock.patch.object(onnx_builder.OnnxBuilder, "constant", constant):
        yield


# -- partition and rewrite -------------------------------------------------------------------


@contextlib.contextmanager
def _ignored_mask() -> Iterator[None]:
    """``deny_ops`` is not read."""
    analysis: Any = mxtrt.plan.analysis
    original = analysis.support
    with mock.patch.object(analysis, "support", lambda graph, *_: original(graph)):
        yield


@contextlib.contextmanager
def _rewritten(change: Callable[[Graph], Graph]) -> Iterator[None]:
    original = _pipeline.rewrite
    with mock.patch.object(_pipeline, "rewrite", lambda *args: change(original(*args))):
        yield


def _heads_reversed(graph: Graph) -> Graph:
    return Graph(graph.nodes, graph.heads[::-1], graph.attrs)


def _heads_without_repeats(graph: Graph) -> Graph:
    return Graph(graph.nodes, list(dict.fromkeys(graph.heads)), graph.attrs)


def _outputs_swapped(segment: Any) -> Any:
    return dataclasses.replace(segment, outputs=segment.outputs[::-1])


@contextlib.contextmanager
def _mixed_up_outputs() -> Iterator[None]:
    """The engine node's outputs are connected in another order than its segment has them."""
    original = _pipeline.rewrite

    def rewrite(graph: Graph, segments: Any, *keys: Any) -> Graph:
        return original(graph, [_outputs_swapped(segment) for segment in segments], *keys)

    with mock.patch.object(_pipeline, "rewrite", rewrite):
        yield


def _alone() -> contextlib.AbstractContextManager[Any]:
    """Every operator is a segment of its own."""
    return mock.patch.object(
        mxtrt.graph.partition, "_components", lambda depends, engine: [*range(len(depends))]
    )


@contextlib.contextmanager
def _forgotten_node() -> Iterator[None]:
    """The report leaves a node out."""
    original = _pipeline.describe

    def describe(*args: Any) -> Any:
        report = original(*args)
        report.left = report.left[:-1]
        return report

    with mock.patch.object(_pipeline, "describe", describe):
        yield


# -- plan, node and hooks ----------------------------------------------------------------------


@contextlib.contextmanager
def _retained_weights() -> Iterator[None]:
    """Weights that engines hold stay resident in MXNet too."""
    nothing = mxtrt.weights.paging.PagedOut(0, 0, 0, 0)
    with mock.patch.object(mxtrt.weights.paging, "page_out", return_value=nothing):
        yield


@contextlib.contextmanager
def _stale_weights() -> Iterator[None]:
    """An executor takes its weights for unchanged when they were set after the bind."""
    original = mxtrt.plan.engine_node.EngineNode.build

    def build(self: Any, arrays: Any, **how: Any) -> None:
        import mxnet as mx

        zeros = {n: mx.nd.zeros_like(arrays[n]) for n in self.weights}
        original(self, {**arrays, **zeros}, **how)

    with mock.patch.object(mxtrt.plan.engine_node.EngineNode, "build", build):
        yield


def _found_by_model() -> contextlib.AbstractContextManager[Any]:
    """A bind gets the engine of another with the same model and other weights."""
    return mock.patch.object(mxtrt.engines.shared._Held, "_digest_now", return_value=b"")


@contextlib.contextmanager
def _requests_mixed_up() -> Iterator[None]:
    """A graph pass takes what another thread asked for last for its own."""
    original = mxtrt.plain.forward.originals

    def late(*args: Any, **kwargs: Any) -> Any:
        time.sleep(0.005)  # the others come meanwhile
        return original.optimize_for(*args, **kwargs)

    graph_pass = mxtrt.plan.graph_pass
    with (
        mock.patch.object(graph_pass, "_calls", SimpleNamespace()),
        mock.patch.object(graph_pass, "originals", SimpleNamespace(optimize_for=late)),
    ):
        yield


@contextlib.contextmanager
def _stale_outputs() -> Iterator[None]:
    """An executor answers with the outputs of its first forward."""
    original = mxtrt.hooks.executor.InferenceExecutor.forward

    def forward(self: Any, is_train: bool = False, **kwargs: Any) -> Any:
        heads = original(self, is_train, **kwargs)
        kept = self.__dict__.setdefault("_kept", [head.copy() for head in heads])
        return kept

    with mock.patch.object(mxtrt.hooks.executor.InferenceExecutor, "forward", forward):
        yield


@contextlib.contextmanager
def _inputs_exchanged() -> Iterator[None]:
    """An engine reads its inputs in another order."""
    original = _pipeline.rewrite

    def rewrite(graph: Graph, segments: Any, *keys: Any) -> Graph:
        def turned(segment: Any) -> Any:
            types = [graph.type_of(entry) for entry in segment.inputs]
            same = len(set(map(str, types))) == 1
            return dataclasses.replace(
                segment, inputs=segment.inputs[::-1] if same else segment.inputs
            )

        return original(graph, [turned(segment) for segment in segments], *keys)

    with mock.patch.object(_pipeline, "rewrite", rewrite):
        yield


@contextlib.contextmanager
def _unseen_kinds() -> Iterator[None]:
    """A block's engines take arrays of any storage type, dtype and context as if they fitted."""
    original = mxtrt.hooks.bound.Bound.__call__

    def call(self: Any, flat: Any) -> Any:
        dense = [array.tostype("default").as_in_context(self._context) for array in flat]
        return original(self, [a.astype("float32") if a.dtype is np.float64 else a for a in dense])

    with mock.patch.object(mxtrt.hooks.bound.Bound, "__call__", call):
        yield


@contextlib.contextmanager
def _first_size() -> Iterator[None]:
    """Whatever the input shapes are, the outputs have those of the first ones."""
    original = mxtrt.plan.variants.Variants.add

    def add(self: Any, shapes: Any, sessions: Any, made: Any, ranges: Any = None) -> None:
        first = self.__dict__.setdefault("_first", made[0])
        original(self, shapes, sessions, (first, made[1]), ranges)

    with mock.patch.object(mxtrt.plan.variants.Variants, "add", add):
        yield


@contextlib.contextmanager
def _miscounted() -> Iterator[None]:
    """A model for many sizes computes with one more than there are."""
    emitter = mxtrt.convert.general._Emitter
    original = emitter._size

    def size(self: Any, symbol: int) -> str:
        return self.node("Add", [original(self, symbol), self.number(1)])

    with mock.patch.object(emitter, "_size", size):
        yield


@contextlib.contextmanager
def _kept_weight() -> Iterator[None]:
    """An engine that is built again for new weights has one of the old ones."""
    original = mxtrt.plan.engine_node.EngineNode.build

    def build(self: Any, arrays: Any, **how: Any) -> None:
        first = {name: arrays[name].copy() for name in self.weights[:1]}
        kept = self.__dict__.setdefault("_kept", first)
        original(self, arrays if kept is first else {**arrays, **kept}, **how)

    with mock.patch.object(mxtrt.plan.engine_node.EngineNode, "build", build):
        yield


@contextlib.contextmanager
def _seen_once() -> Iterator[None]:
    """Of the writes to its weights an engine sees the first one only."""
    freshness = mxtrt.plan.freshness.Freshness
    current, settle = freshness.current, freshness.settle

    def look(self: Any) -> bool:
        return self.__dict__.get("_wrote", False) or current(self)

    def build(self: Any, data: Any = None) -> bool:
        answers = settle(self, data)
        self._wrote = bool(answers and self._patience)
        return answers

    with (
        mock.patch.object(freshness, "current", look),
        mock.patch.object(freshness, "settle", build),
    ):
        yield


@contextlib.contextmanager
def _failing_build() -> Iterator[None]:
    """The engine refuses segments of more than two nodes."""
    from mxtrt.errors import EngineError

    original = mxtrt.plan.engine_node.EngineNode.build

    def build(self: Any, arrays: Any, **how: Any) -> None:
        if len(self.report.nodes) > 2:
            raise EngineError("refused")
        original(self, arrays, **how)

    with mock.patch.object(mxtrt.plan.engine_node.EngineNode, "build", build):
        yield


# -- programs in C: made in the Python that such a program starts ------------------------------


@contextlib.contextmanager
def _unwatched() -> Iterator[None]:
    """Forwards without Python go on with the engine when a weight was written to."""
    executors: Any = importlib.import_module("mxtrt.frontends.executors")

    with mock.patch.object(executors, "watches_of", return_value=[]):
        yield


@contextlib.contextmanager
def _other_weights() -> Iterator[None]:
    """Calls with other arrays of weights get the engine of the first ones."""
    blocks: Any = importlib.import_module("mxtrt.frontends.blocks")

    original = blocks.CachedOpArms

    def armed(*args: Any) -> Any:
        return original(*args[:5], {}, *args[6:])

    with mock.patch.object(blocks, "CachedOpArms", armed):
        yield


@contextlib.contextmanager
def _rounded_parameters() -> Iterator[None]:
    """The parameters of a predictor's model are read in half precision."""
    predictors: Any = importlib.import_module("mxtrt.frontends.predictors")

    original = predictors._placed

    def placed(*args: Any) -> dict[str, Any]:
        made = original(*args)
        return {n: a.astype("float16").astype(a.dtype) for n, a in made.items()}

    with mock.patch.object(predictors, "_placed", placed):
        yield


def _trained_in_engines() -> contextlib.AbstractContextManager[Any]:
    """A step of training runs in engines, which change no running mean."""
    return mock.patch.object(mxtrt.hooks.gluon, "_is_inference", return_value=True)


@contextlib.contextmanager
def _kept_plans() -> Iterator[None]:
    """The engines of what was dropped stay."""
    room = mxtrt.hooks.executor
    original = room._attach
    kept: list[Any] = []

    def attach(executor: Any, binding: Any, *awaited: Any) -> Any:
        kept.append(binding)
        return original(executor, binding, *awaited)

    with mock.patch.object(room, "_attach", attach):
        yield
    kept.clear()


@contextlib.contextmanager
def _held_inputs() -> Iterator[None]:
    """Inputs that are the arrays of the last call are taken for what they held then."""
    run = mxtrt.plan.inline.InlineRun
    original = run.__call__

    def answer(self: Any, inputs: Any) -> Any:
        known, outputs = self.__dict__.get("_last", ((), None))
        if outputs is None or [*map(id, known)] != [*map(id, inputs)]:
            outputs = original(self, inputs)
            self._last = [*inputs], outputs
        return None if outputs is None else [one.copy() for one in outputs]

    with mock.patch.object(run, "__call__", answer):
        yield


@contextlib.contextmanager
def _fourth_write() -> Iterator[None]:
    """Of the writes to its weights an engine sees three."""
    freshness = mxtrt.plan.freshness.Freshness
    current, settle = freshness.current, freshness.settle

    def look(self: Any) -> bool:
        return self.__dict__.get("_builds", 0) > 3 or current(self)

    def build(self: Any, data: Any = None) -> bool:
        answers = settle(self, data)
        self._builds = self.__dict__.get("_builds", 0) + answers
        return answers

    with (
        mock.patch.object(freshness, "current", look),
        mock.patch.object(freshness, "settle", build),
    ):
        yield


#: Mistakes that a program in C is started with, by their names, and the way to bind that has each.
_OF_PROGRAMS = {
    "a program's writes not seen": (_unwatched, "c_bind"),
    "a program's other weights not seen": (_other_weights, "c_cached_op"),
    "a program's parameters in half precision": (_rounded_parameters, "c_predict"),
}

#: What is wrong with a program in C, by name; :mod:`mxtrt_fuzz.inside` makes it.
IN_PROGRAMS = {name: mistake for name, (mistake, _) in _OF_PROGRAMS.items()}

_PROGRAMS = tuple(
    Mutant(name, "frontends", partial(client.planted, name), way=way)
    for name, (_, way) in _OF_PROGRAMS.items()
    if client.available()
)


# Operators that write a size into the model.
_LENGTHS = ("repeat", "_contrib_arange_like", "slice_like")

_GRAPHS = (
    Mutant("weights in half precision", "engine", lambda: _rounded_weights(np.float16)),
    Mutant("constants in half precision", "engine", _rounded_scalars, ("_mul_scalar",)),
    Mutant("the mask is ignored", "partition", _ignored_mask),
    Mutant("heads in reverse order", "rewrite", lambda: _rewritten(_heads_reversed)),
    Mutant("repeated heads dropped", "rewrite", lambda: _rewritten(_heads_without_repeats)),
    Mutant("outputs of an engine exchanged", "rewrite", _mixed_up_outputs),
    Mutant("inputs of an engine exchanged", "rewrite", _inputs_exchanged),
    Mutant("operators that are not joined", "partition", _alone),
    Mutant("a node missing from the report", "partition", _forgotten_node),
    Mutant("weights retained", "memory", _retained_weights),
    Mutant("weights as they were before they were set", "plan", _stale_weights),
    Mutant("engines found whatever their weights hold", "engine", _found_by_model, exact=True),
    Mutant("binds of other threads taken for one's own", "plan", _requests_mixed_up, exact=True),
    Mutant("outputs of the first forward", "node", _stale_outputs),
    Mutant("arrays that are not looked at", "hooks", _unseen_kinds),
    Mutant("outputs of the first batch size", "plan", _first_size),
    Mutant("sizes counted wrong", "converters", _miscounted, _LENGTHS),
    Mutant("an old weight in an engine that is built again", "plan", _kept_weight),
    Mutant("the second write to a weight is not seen", "plan", _seen_once),
    Mutant("builds that fail", "engine", _failing_build),
)

_STORIES = (
    Mutant("running means not changed by training", "hooks", _trained_in_engines, story=True),
    Mutant("engines of what was dropped", "hooks", _kept_plans, story=True),
    Mutant("inputs that were written to since", "plan", _held_inputs, story=True),
    Mutant("the fourth write to a weight is not seen", "plan", _fourth_write, story=True),
)

#: Every mutant.
MUTANTS = (*_CONVERTERS, *_GRAPHS, *_PROGRAMS, *_STORIES)
