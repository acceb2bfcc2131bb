"""The inside of a model in float16.

Products, and what is added, multiplied and compared element by element, become float16.  What sums
up many values or needs float16's missing range stays float32: exponentials, powers, divisions,
means, normalisation, softmax; so does arithmetic between such nodes (the centred values of a layer
normalisation) and of such a node with a weight (its gamma and beta), a square, and what makes the
places at which a sampler reads.  What moves data follows what it moves.  Inputs and outputs of the
model keep their dtypes.

A node whose weights or values float16 cannot hold stays float32 too, and a reason is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet

import numpy as np
from onnx import NodeProto, TensorProto, helper

from mxtrt.precision.ranges import LAYERS
from mxtrt.precision.working import Array, Step, WorkingModel

__all__ = ["LARGEST", "SMALLEST", "retype"]

_HALF, _SINGLE = int(TensorProto.FLOAT16), int(TensorProto.FLOAT)
_MAX = float(np.finfo(np.float16).max)

#: Values that get larger than this may overflow on other data: an eighth of the largest float16.
LARGEST = _MAX / 8
#: Values that stay below this lose more to the spacing of subnormal numbers (2**-24) than float16
#: arithmetic loses anyway (2**-11 of the largest), with a factor of 8 for other data.
SMALLEST = 2.0**-11

# Relative change of a weight as a whole by rounding: eight times what normal numbers can suffer.
_ROUNDED = 2.0**-8

# Weights of more elements are stored in one type only; where nodes read both types, a Cast makes
# the other one at run time.
_SMALL = 1024

# fmt: off
_COMPUTES = frozenset({
    "Abs", "Add", "AveragePool", "Clip", "Conv", "ConvTranspose", "Elu", "Erf", "Gemm",
    "GlobalAveragePool", "HardSigmoid", "LeakyRelu", "MatMul", "Max", "Min", "Mul", "Neg", "PRelu",
    "Relu", "Resize", "Selu", "Sigmoid", "Sub", "Sum", "Tanh",
})
_FOLLOWS = frozenset({
    "Concat", "DepthToSpace", "Equal", "Expand", "Flatten", "Gather", "GatherElements", "GatherND",
    "GlobalMaxPool", "Greater", "GreaterOrEqual", "Identity", "Less", "LessOrEqual", "MaxPool",
    "Pad", "Reshape", "Shape", "Sign", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile",
    "Transpose", "Unsqueeze", "Where",
})
# fmt: on
_ELEMENTWISE = frozenset({"Abs", "Add", "Max", "Min", "Mul", "Neg", "Sub", "Sum"})
# Inputs that stay float32 whatever the type of the others.
_ALWAYS_SINGLE = {"Resize": (1, 2)}


def retype(
    model: WorkingModel,
    ranges: Mapping[str, float] | None = None,
    only: AbstractSet[str] | None = None,
) -> dict[str, str]:
    """Retype a model to float16.

    Args:
        model: The model in float32; float16 at its edges is cast.
        ranges: Largest magnitude of values, by name, as far as it is known.
        only: Outputs of the nodes that may compute in float16, by default all.

    Returns:
        Why MXNet nodes that compute stay float32, by name: weights or values that do not fit.
    """
    pass_ = _Retyping(model, ranges or {}, only)
    for step in model.steps:
        pass_.take(step)
    model.steps = pass_.done
    for step in model.steps:
        step.node.name = step.node.output[0]
    model.drop_unread()
    return pass_.reasons


class _Retyping:
    def __init__(
        self, model: WorkingModel, ranges: Mapping[str, float], only: AbstractSet[str] | None
    ) -> None:
        self._model = model
        self._only = only
        self._ranges = ranges
        self._types = model.types()
        self._readers = model.readers()
        self._places = _places(model)
        # By type, under what name a value of the float32 model exists in that type.
        self._names: dict[int, dict[str, str]] = {_HALF: {}, _SINGLE: {}}
        self._made: dict[str, int] = {}  # by value, the type that its node computes in
        for name, kind in model.inputs.items():
            if kind == _SINGLE:
                self._names[_SINGLE][name] = name
        self.done: list[Step] = []
        self.reasons: dict[str, str] = {}

    def take(self, step: Step) -> None:
        node = step.node
        floats = [name for name in node.input if self._is_float(name)]
        made = [name for name in node.output if self._is_float(name)]
        if node.op_type == "Cast":
            self._take_cast(step, bool(floats), made)
        elif not floats and not made:
            self.done.append(step)
        else:
            kind = self._kind(step)
            for place, name in enumerate(node.input):
                if self._is_float(name):
                    single = place in _ALWAYS_SINGLE.get(node.op_type, ())
                    node.input[place] = self._as(_SINGLE if single else kind, name, step)
            self.done.append(step)
            for place, name in enumerate(node.output):
                if name in made:
                    node.output[place] = self._produce(kind, name)
            if kind == _HALF:
                for name in made:
                    if name in self._model.outputs:
                        self._cast(self._names[_HALF][name], name, _SINGLE, step)

    def _take_cast(self, step: Step, of_float: bool, made: Sequence[str]) -> None:
        """Take a cast from or to float32.

        A float16 value that MXNet casts to float32 is at hand as the float16 version of the result.
        A cast to float16 becomes a copy of the float16 version of its input.
        """
        node = step.node
        source, target = node.input[0], node.output[0]
        to_half = self._types.get(target) == _HALF
        if made and self._types.get(source) == _HALF:
            self._names[_HALF][target] = source
            self._made[target] = _HALF
        if of_float:
            kind = self._made.get(source, _SINGLE)
            node.input[0] = self._as(_HALF if to_half else kind, source, step)
            if to_half:
                step.node.CopyFrom(helper.make_node("Identity", node.input, [target], target))
        if made:
            self._names[_SINGLE][target] = target
        self.done.append(step)

    # -- what a node computes in ---------------------------------------------------------

    def _kind(self, step: Step) -> int:
        node = step.node
        if self._only is not None and self._only.isdisjoint(node.output):
            return _SINGLE
        if node.op_type in _FOLLOWS:
            return self._followed(step)
        if not self._may_compute(node):
            return _SINGLE
        reason = self._misfit(node)
        if reason:
            self.reasons[step.source] = reason
            return _SINGLE
        return _HALF

    def _may_compute(self, node: NodeProto) -> bool:
        if not self._places.isdisjoint(node.output):
            return False
        if node.op_type == "Div":
            return len(node.input) == 2 and self._model.is_initializer(node.input[1])
        if node.op_type not in _COMPUTES:
            return False
        if node.op_type == "Mul" and node.input[0] == node.input[1]:
            return False
        if node.op_type in _ELEMENTWISE:
            after_single = any(self._made.get(name) == _SINGLE for name in node.input)
            # ONNX Runtime fuses a layer normalisation with its gamma and beta, of one type.
            if after_single and any(self._model.is_initializer(name) for name in node.input):
                return False
            before_single = any(
                reader.node.op_type not in _COMPUTES | _FOLLOWS
                for name in node.output
                for reader in self._readers.get(name, ())
            )
            return not (after_single and before_single)
        return True

    def _misfit(self, node: NodeProto) -> str:
        for place, name in enumerate(node.input):
            value = self._model.value(name) if self._is_float(name) else None
            if value is not None and place not in _ALWAYS_SINGLE.get(node.op_type, ()):
                if node.op_type == "Clip" and place > 0:
                    continue  # a bound that float16 cannot hold bounds nothing there
                reason = _unfit(value)
                if reason:
                    return f"{_plain(name)} {reason}"
        for name in (*node.input, *node.output):
            largest = self._ranges.get(name, 0.0)
            if largest > LARGEST or not np.isfinite(largest):
                return "values get larger than float16 holds"
            if 0.0 < largest < SMALLEST:
                return "values get smaller than float16 resolves"
        return ""

    def _followed(self, step: Step) -> int:
        moved = [n for n in step.node.input if self._is_float(n)]
        computed = [n for n in moved if not self._model.is_initializer(n)]
        if computed:
            half = any(self._made.get(name) == _HALF for name in computed)
            fits = all(self._fits(name) for name in moved)
            return _HALF if half and fits else _SINGLE
        # A value that is made of weights alone gets the type of the nodes that read it.
        readers = [r for name in step.node.output for r in self._readers.get(name, ())]
        half = any(reader.node.op_type in _COMPUTES for reader in readers)
        return _HALF if half and all(self._fits(name) for name in moved) else _SINGLE

    def _fits(self, name: str) -> bool:
        value = self._model.value(name)
        return value is None or not _unfit(value)

    def _is_float(self, name: str) -> bool:
        return self._types.get(name) == _SINGLE

    # -- values --------------------------------------------------------------------------

    def _produce(self, kind: int, name: str) -> str:
        self._made[name] = kind
        new = self._model.fresh(f"{name}_half") if kind == _HALF else name
        self._names[kind][name] = new
        return new

    def _as(self, kind: int, name: str, step: Step) -> str:
        """Name of a value in a type; it is cast if it is not at hand."""
        names, others = self._names[kind], self._names[_HALF if kind == _SINGLE else _SINGLE]
        if name not in names:
            value = self._model.value(name)
            if value is not None and (name not in others or value.size <= _SMALL):
                bounded = np.clip(value, -_MAX, _MAX) if step.node.op_type == "Clip" else value
                names[name] = (
                    name if kind == _SINGLE else self._model.add(name, bounded.astype(np.float16))
                )
            else:
                new = self._model.fresh(name)
                names[name] = self._cast(others[name], new, kind, step)
        return names[name]

    def _cast(self, name: str, new: str, kind: int, step: Step) -> str:
        node = helper.make_node("Cast", [name], [new], new, to=kind)
        self.done.append(Step(node, step.source))
        if kind == _SINGLE and new in self._model.outputs:
            self._names[_SINGLE][new] = new
        return new


def _places(model: WorkingModel) -> set[str]:
    """Values between layers and the places at which a ``GridSample`` reads.

    float16 would be off by a sixteenth of a pixel in the middle of a picture of 300.
    """
    found: set[str] = set()
    for step in reversed(model.steps):
        if step.node.op_type == "GridSample":
            found.add(step.node.input[1])
        elif step.node.op_type not in LAYERS and found.intersection(step.node.output):
            found.update(step.node.input)
    return found


def _unfit(value: Array) -> str:
    """Why an array does not fit into float16, empty if it does."""
    size = np.abs(value[np.isfinite(value)].astype(np.float64))
    largest = size.max(initial=0.0)
    if largest > _MAX:
        return f"reaches {largest:.1e}, and float16 ends at {_MAX:.0f}"
    if largest:
        rounded = size.astype(np.float16).astype(np.float64)
        change = np.linalg.norm(rounded - size) / np.linalg.norm(size)
        if change > _ROUNDED:
            return f"is too small for float16 ({largest:.1e} at most)"
    return ""


def _plain(name: str) -> str:
    return "a constant" if name.startswith("const_") else name.partition("__")[0]
