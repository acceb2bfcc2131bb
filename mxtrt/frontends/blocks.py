"""``CachedOp`` of a program in another language: what a hybridized block is in Python."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import mxnet as mx
from mxnet.gluon import SymbolBlock
from mxnet.ndarray import NDArray

from mxtrt import config
from mxtrt.frontends.arms import CachedOpArms, watches_of
from mxtrt.frontends.optimized import asked_for, options_of
from mxtrt.graph.roles import guess_weights
from mxtrt.graph.symbol import Graph
from mxtrt.hooks.gluon import standing
from mxtrt.node import library

__all__ = ["ClientBlock"]


class _Shared:
    """Stands for the value that a parameter is initialized with: the caller's array itself."""

    def __init__(self, array: NDArray) -> None:
        self._array = array

    def copyto(self, _context: Any) -> NDArray:
        return self._array


class ClientBlock:
    """The ``CachedOp`` of a caller as a block, whose parameters are the caller's arrays.

    Args:
        symbol: What it was created from.
        flags: Of its creation, by name.
        arrays: Arrays of its inputs, in order.
    """

    def __init__(
        self,
        symbol: Any,
        flags: Mapping[str, str],
        arrays: Sequence[NDArray],
    ) -> None:
        names = symbol.list_inputs()
        if "param_indices" in flags:
            weights = {names[place] for place in json.loads(flags["param_indices"])}
        else:
            options = options_of(symbol)
            data_names = options.data_names if options is not None else ()
            weights = set(guess_weights(Graph.of(symbol), data_names))
        self._data = [place for place, name in enumerate(names) if name not in weights]
        self._weights = {name: place for place, name in enumerate(names) if name in weights}
        self._parameters = {place: arrays[place] for place in self._weights.values()}
        self._asked_for = asked_for(symbol)
        with warnings.catch_warnings():  # the parameters get their dtypes below
            warnings.filterwarnings("ignore", "Cannot decide type")
            block = SymbolBlock(symbol, [mx.sym.var(names[place]) for place in self._data])
        for name, parameter in block.collect_params().items():
            array = arrays[self._weights[name]]
            parameter.grad_req = "null"
            parameter.shape, parameter.dtype = array.shape, array.dtype
            parameter._init_impl(_Shared(array), [array.ctx])
        static = {
            name: flags.get(name, "").lower() in ("1", "true")
            for name in ("static_alloc", "static_shape")
        }
        block.hybridize(**static)
        self._block = block

    def __call__(
        self, arrays: Sequence[NDArray]
    ) -> tuple[list[NDArray], CachedOpArms | None] | None:
        """The outputs, and what computes them from now on without Python, if anything does.

        Returns:
            None where the weights are others than those of the first call.

        Raises:
            MXNetError: MXNet's.
        """
        is_same = library().lib.mxtrt_is_same
        for place, own in self._parameters.items():
            if not is_same(own.handle, arrays[place].handle):
                return None
        data = [arrays[place] for place in self._data]
        with config.options(**self._asked_for) if self._asked_for else nullcontext():
            made = self._block(*data)
            outputs = [made] if isinstance(made, NDArray) else [*made]
            return outputs, self._arms(data, len(outputs))

    def _arms(self, data: Sequence[NDArray], outputs: int) -> CachedOpArms | None:
        bound = standing(self._block, data)
        if bound is None:
            return None
        plan = bound.symbol.plan
        watches = watches_of(plan, [bound.arrays[name] for name in sorted(plan.weights)])
        if standing(self._block, data) is not bound:  # written before it was watched
            return None
        names = bound.symbol.list_inputs()
        known = {self._block_name(place): place for place in self._data}
        places = [known[n] if n in known else self._weights[n] for n in names]
        shapes = dict(zip(self._data, (array.shape for array in data), strict=True))
        return CachedOpArms(
            plan,
            watches,
            bound.inline,
            bound.op,
            places,
            self._parameters,
            [shapes.get(place, ()) for place in places],
            outputs,
        )

    def _block_name(self, place: int) -> str:
        name: str = self._block._cached_graph[0][self._data.index(place)].name
        return name
