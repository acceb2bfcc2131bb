"""The ways to bind a symbol, and to write to the weights of what is bound."""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

import mxtrt
from mxtrt_fuzz.client import Client
from mxtrt_fuzz.graphs import C_BINDS

__all__ = ["Bound", "Executors", "Parts", "bind", "copied", "ready", "runs"]

_Arrays = Mapping[str, Any]


class Bound(Protocol):
    """A symbol that is bound."""

    def __call__(self, inputs: _Arrays) -> list[Any]:
        """The heads for some inputs, which may be of other sizes than those before."""

    def write(self, values: _Arrays, how: str) -> None:
        """Write to weights and auxiliary states, as a caller would.

        Args:
            values: New values by name.
            how: One of :data:`mxtrt_fuzz.graphs.WRITES`.
        """


@dataclass(frozen=True, slots=True)
class Parts:
    """What is bound.

    Attributes:
        mx: MXNet.
        context: Where the arrays are.
        symbol: The symbol.
        inputs: NDArrays of the shapes to bind with, by name; their values are not read.
        weights: NDArrays by name, which become those of what is bound where a way takes arrays.
        aux: Auxiliary states likewise.
    """

    mx: Any
    context: Any
    symbol: Any
    inputs: _Arrays
    weights: _Arrays
    aux: _Arrays


def bind(way: str, parts: Parts) -> Bound:
    """Bind in one of :data:`mxtrt_fuzz.graphs.BINDS`."""
    return _WAYS[way](parts)


def copied(mx: Any, context: Any, array: Any) -> Any:
    """An NDArray with the numbers of an array."""
    made = mx.nd.empty(array.shape, context, dtype=array.dtype)
    made._sync_copyfrom(np.asarray(array))
    return made


def runs(bound: Bound) -> int:
    """How often engines ran so far where something is bound."""
    return bound.runs() if isinstance(bound, Client) else mxtrt.stats().engine_runs


def ready(bound: Bound, timeout: float) -> None:
    """Wait until nothing is being built in the background where something is bound."""
    if isinstance(bound, Client):
        bound.ready(timeout)
    else:
        mxtrt.ready(timeout=timeout)


def _fresh(parts: Parts) -> dict[str, Any]:
    zeros = {name: np.zeros(a.shape, a.dtype) for name, a in parts.inputs.items()}
    return {name: copied(parts.mx, parts.context, array) for name, array in zeros.items()}


def _reread(mx: Any, values: _Arrays) -> dict[str, Any]:
    """Arrays that were written to a file of parameters and read again."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "written.params"))
        mx.nd.save(path, dict(values))
        read: dict[str, Any] = mx.nd.load(path)
    return read


class Executors:
    """An executor, and one more for each other input shapes."""

    def __init__(self, mx: Any, executor: Any) -> None:
        self._mx = mx
        self.executor = executor
        self._reshaped: dict[Any, Any] = {}

    def __call__(self, inputs: _Arrays) -> list[Any]:
        known = self.executor.arg_dict
        given = {name: array for name, array in inputs.items() if name in known}
        return list(self._at(given).forward(**given))

    def _at(self, given: _Arrays) -> Any:
        shapes = {name: tuple(array.shape) for name, array in given.items()}
        if all(self.executor.arg_dict[name].shape == shape for name, shape in shapes.items()):
            return self.executor
        key = tuple(shapes.values())
        if key not in self._reshaped:
            self._reshaped[key] = self.executor.reshape(allow_up_sizing=True, **shapes)
        return self._reshaped[key]

    @property
    def arrays(self) -> dict[str, Any]:
        """Its arguments and states by name."""
        return {**self.executor.arg_dict, **self.executor.aux_dict}

    def train(self, inputs: _Arrays) -> None:
        """A forward for training."""
        known = self.executor.arg_dict
        given = {name: array for name, array in inputs.items() if name in known}
        for head in self._at(given).forward(is_train=True, **given):
            head.wait_to_read()

    def write(self, values: _Arrays, how: str) -> None:
        arrays = self.arrays
        if how in ("assign", "row"):
            _assign(arrays, values, how)
            return
        values = _reread(self._mx, values) if how == "load" else values
        states = self.executor.aux_dict
        self.executor.copy_params_from(
            {name: array for name, array in values.items() if name not in states},
            {name: array for name, array in values.items() if name in states},
        )


def _assign(arrays: _Arrays, values: _Arrays, how: str) -> None:
    for name, value in values.items():
        if how == "row":
            arrays[name][0:1] = value[0:1]
        else:
            arrays[name][:] = value


def _bind(parts: Parts) -> Executors:
    args = {**_fresh(parts), **parts.weights}
    executor = parts.symbol.bind(parts.context, args, aux_states=dict(parts.aux), grad_req="null")
    return Executors(parts.mx, executor)


def _simple_bind(parts: Parts) -> Bound:
    types = {name: array.dtype for name, array in {**parts.inputs, **parts.weights}.items()}
    shapes = {name: array.shape for name, array in parts.inputs.items()}
    executor = parts.symbol.simple_bind(parts.context, grad_req="null", type_dict=types, **shapes)
    executor.copy_params_from(dict(parts.weights), dict(parts.aux))
    return Executors(parts.mx, executor)


def _optimize_for(parts: Parts, *, pickled: bool = False) -> Bound:
    args, aux = {**_fresh(parts), **parts.weights}, dict(parts.aux)
    symbol = parts.symbol.optimize_for("TensorRT", args, aux, parts.context)
    kept = {name: args[name] for name in symbol.list_arguments()}
    states = {name: aux[name] for name in symbol.list_auxiliary_states()}
    if pickled:
        symbol = pickle.loads(pickle.dumps(symbol))
    executor = symbol.bind(parts.context, kept, aux_states=states, grad_req="null")
    return Executors(parts.mx, executor)


class _Block:
    """A hybridized SymbolBlock."""

    def __init__(self, parts: Parts, static: bool) -> None:
        self._mx, self._context = parts.mx, parts.context
        self._names = list(parts.inputs)
        variables = [parts.mx.sym.var(name) for name in self._names]
        self._block = parts.mx.gluon.SymbolBlock(parts.symbol, variables)
        values = {**parts.weights, **parts.aux}
        self._parameters = dict(self._block.collect_params().items())
        for name, parameter in self._parameters.items():
            parameter.cast(values[name].dtype)
            parameter._load_init(values[name], parts.context)
        self._block.hybridize(static_alloc=static, static_shape=static)

    def __call__(self, inputs: _Arrays) -> list[Any]:
        outputs = self._block(*(inputs[name] for name in self._names))
        return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]

    @property
    def arrays(self) -> dict[str, Any]:
        """Its parameters by name."""
        return {name: parameter.data() for name, parameter in self._parameters.items()}

    def train(self, inputs: _Arrays) -> None:
        """A step of training, of which the gradients are not used."""
        with self._mx.autograd.record():
            heads = self(inputs)
        self._mx.autograd.backward(heads)
        for array in (*heads, *self.arrays.values()):
            array.wait_to_read()

    def write(self, values: _Arrays, how: str) -> None:
        known = {name: self._parameters[name] for name in values}
        if how == "set":
            for name, parameter in known.items():
                parameter.set_data(values[name])
        elif how == "load":
            self._load(values)
        else:
            _assign({name: parameter.data() for name, parameter in known.items()}, values, how)

    def _load(self, values: _Arrays) -> None:
        """Save the block's parameters, change some in the file, and load it.

        Not by ``load_parameters``: it takes off what the names of a SymbolBlock begin with.
        """
        parameters = self._block.collect_params()
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder, "written.params"))
            parameters.save(path)
            self._mx.nd.save(path, {**self._mx.nd.load(path), **values})
            parameters.load(path, self._context)


class _Module:
    """A Module that was bound for inference."""

    def __init__(self, parts: Parts) -> None:
        self._mx = parts.mx
        self._names = list(parts.inputs)
        self._states = frozenset(parts.aux)
        # MXNet would have the first axes of all data be one batch size.
        descriptions = [
            parts.mx.io.DataDesc(name, array.shape, array.dtype, "" if place else "N")
            for place, (name, array) in enumerate(parts.inputs.items())
        ]
        self._module = parts.mx.mod.Module(
            parts.symbol, self._names, label_names=None, context=parts.context
        )
        self._module.bind(descriptions, for_training=False)
        self._module.init_params(None, dict(parts.weights), dict(parts.aux))

    def __call__(self, inputs: _Arrays) -> list[Any]:
        data = [inputs[name] for name in self._names]
        self._module.forward(self._mx.io.DataBatch(data), is_train=False)
        return list(self._module.get_outputs())

    def write(self, values: _Arrays, how: str) -> None:
        args, states = self._module.get_params()
        if how == "row":
            values = {name: self._with_row(name, value) for name, value in values.items()}
        every = {**args, **states, **values}
        if how == "load":
            every = _reread(self._mx, every)
        given = values if how == "set" else every
        self._module.set_params(
            {name: array for name, array in given.items() if name not in self._states},
            {name: array for name, array in given.items() if name in self._states},
            allow_missing=how == "set",
        )

    def _with_row(self, name: str, value: Any) -> Any:
        args, states = self._module.get_params()
        whole = {**args, **states}[name].copy()
        whole[0:1] = value[0:1]
        return whole


_WAYS: Mapping[str, Callable[[Parts], Bound]] = {
    "bind": _bind,
    "simple_bind": _simple_bind,
    "gluon": lambda parts: _Block(parts, False),
    "gluon_static": lambda parts: _Block(parts, True),
    "module": _Module,
    "optimize_for": _optimize_for,
    "pickled": lambda parts: _optimize_for(parts, pickled=True),
    **{way: partial(Client, way) for way in C_BINDS},
}
