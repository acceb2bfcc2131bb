"""The executor of a bind that got engines.

It is MXNet's own executor, with one more of the partitioned symbol beside it.  Both work on
the same argument arrays.  A forward for inference runs the partitioned one; training, a
monitor, and weights that changed a moment ago run MXNet's.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mxnet.executor import Executor
from mxnet.ndarray import NDArray

from mxtrt.config import Options
from mxtrt.errors import RefusedNodesError
from mxtrt.hooks import decision
from mxtrt.hooks.partitioned import (
    EngineSymbol,
    partition_symbol,
    until_accepted,
)
from mxtrt.observe.counters import count
from mxtrt.plain.forward import bound
from mxtrt.plan.freshness import Freshness
from mxtrt.plan.inline import InlineRun, OtherArraysError
from mxtrt.plan.state import Stage, State

if TYPE_CHECKING:
    from mxnet.symbol import Symbol

__all__ = ["InferenceExecutor", "adopt"]


@dataclass(frozen=True)
class _Source:
    """What an executor was bound from."""

    symbol: Symbol
    options: Options
    weights: frozenset[str]

    def give_engines(
        self, executor: Executor, *, build: bool, refused: Mapping[str, str] | None = None
    ) -> None:
        """Partition the symbol and attach its engines to an executor, if it gets any.

        Raises:
            EngineError: The engine refused the symbol.
        """
        until_accepted(lambda known: self._try(executor, build, known), refused)

    def _try(self, executor: Executor, build: bool, refused: Mapping[str, str]) -> None:
        arguments, states = dict(executor.arg_dict), dict(executor.aux_dict)
        arrays = {**arguments, **states}
        weights = self.weights & arrays.keys()
        partitioned = partition_symbol(
            self.symbol, arguments, states, executor._ctx, self.options, weights, refused
        )
        if not partitioned.plan.nodes:
            return
        if build:
            partitioned.plan.build(arrays, shares=True)
        freshness = Freshness(partitioned.plan, arrays)
        _attach(executor, _Binding(executor, partitioned, freshness, self, refused))


class _Binding:
    """What an executor knows of its engines."""

    def __init__(
        self,
        executor: Executor,
        symbol: EngineSymbol,
        freshness: Freshness,
        source: _Source,
        refused: Mapping[str, str],
    ) -> None:
        self.refused = dict(refused)
        self.symbol = symbol
        self.source = source
        self.freshness = freshness
        self.inline = InlineRun.of(symbol.plan, executor._ctx)
        self.inputs = {name: executor.arg_dict[name] for name in symbol.list_arguments()}
        self.executor: Executor | None = bound(
            symbol, {**executor.arg_dict, **executor.aux_dict}, executor._ctx
        )

    def on(self, executor: Executor) -> _Binding:
        """The same engines on another executor of the symbol."""
        return _Binding(executor, self.symbol, self.freshness, self.source, self.refused)


class InferenceExecutor(Executor):  # type: ignore[misc]
    """An executor whose inference runs in engines; everything else is MXNet's executor."""

    handle: Any
    outputs: list[Any]
    _mxtrt: _Binding | None
    _state: State  # ``LEFT`` where a rebuild failed, or a reshape to shapes without an engine
    _retired: list[Any]
    _relatives: weakref.WeakSet[Executor] | None = (
        None  # the executors that share the memory of its outputs, itself among them
    )

    def forward(self, is_train: bool = False, **kwargs: Any) -> list[Any]:
        """Compute the outputs, as :meth:`mxnet.executor.Executor.forward` does.

        The output arrays are the same Python objects at every forward, so that one kept from
        an earlier forward shows the latest result, as it does with MXNet's executor.
        """
        heads, binding = self.outputs, self._mxtrt
        computed_in_place = False
        if (
            binding is None
            or is_train
            or self._monitor_callback is not None
            or not binding.symbol.plan.weights.isdisjoint(kwargs)
            or (binding := self._ready(binding)) is None
        ):
            outputs: list[Any] = self._run_plain(is_train, kwargs)
            computed_in_place = True
        else:
            outputs = self._run_inline(binding, kwargs) or []
            if not outputs and binding.symbol.plan.state.retired:
                outputs = Executor.forward(self, is_train, **kwargs)
                computed_in_place = True
                count("fallbacks")
            outputs = outputs or self._run(binding, kwargs)
        if self._relatives is not None and len(self._relatives) > 1 and not computed_in_place:
            for head, new in zip(heads, outputs, strict=True):
                new.copyto(head)  # into the memory that the related executors read
        else:
            for head, new in zip(heads, outputs, strict=True):
                head.handle, new.handle = new.handle, head.handle
        # Kept until the next forward: another thread may still be reading one of them.
        self._retired = outputs
        self.outputs = heads
        return heads

    def _run_plain(self, is_train: bool, kwargs: dict[str, Any]) -> list[Any]:
        """Run MXNet's own operators."""
        if self._state.left and not is_train and self._monitor_callback is None:
            count("fallbacks")
        made: list[Any] = Executor.forward(self, is_train, **kwargs)
        return made

    def _run(self, binding: _Binding, kwargs: dict[str, Any]) -> list[Any]:
        """Run the partitioned graph through MXNet."""
        assert binding.executor is not None
        own = self.handle
        self.handle = binding.executor.handle
        try:
            outputs: list[Any] = Executor.forward(self, False, **kwargs)
        finally:
            self.handle = own
        return outputs

    def _run_inline(self, binding: _Binding, kwargs: dict[str, Any]) -> list[Any] | None:
        """Run a short graph on this thread; None when it has to go through MXNet."""
        if binding.inline is None:
            return None
        inputs = binding.inputs
        if kwargs:
            for name, array in kwargs.items():
                known = inputs.get(name)
                if known is None or not isinstance(array, NDArray) or array.shape != known.shape:
                    return None  # MXNet's forward raises, or converts the array
            inputs = {**inputs, **kwargs}
        try:
            outputs = binding.inline(list(inputs.values()))
        except OtherArraysError:
            return None  # MXNet's forward copies them into its own arrays, or raises
        if outputs is not None:
            for name, array in kwargs.items():
                self.arg_dict[name][:] = array  # asynchronous; the run has already read `array`
        return outputs

    def reshape(
        self, partial_shaping: bool = False, allow_up_sizing: bool = False, **kwargs: Any
    ) -> Executor:
        """A new executor for other input shapes, as MXNet's; the engines are shared.

        While both live each computes into the memory of the other's outputs, as with MXNet's, and
        the new one has the monitor of the old one.
        """
        binding = self._mxtrt
        executor = Executor.reshape(self, partial_shaping, allow_up_sizing, **kwargs)
        executor._monitor_callback = self._monitor_callback
        executor._monitor_all = self._monitor_all
        if binding is not None:
            done = decision.attempt(
                lambda: _attach(executor, binding.on(executor)), binding.source.options
            )
            if done is None:
                _attach(executor, None)._state.to(Stage.LEFT)
        self._return_outputs()
        if self._relatives is None:
            self._relatives = weakref.WeakSet([self])
        self._relatives.add(executor)
        executor._relatives = self._relatives
        return executor

    def _return_outputs(self) -> None:
        """Have the output arrays be those of MXNet's executor again, with the present values."""
        for head, own in zip(self.outputs, self._get_outputs(), strict=True):
            head.copyto(own)
            head.handle, own.handle = own.handle, head.handle

    def __del__(self) -> None:
        # At interpreter exit the module's globals may be None already.
        if sys is None or sys.is_finalizing():
            return
        Executor.__del__(self)

    def _ready(self, binding: _Binding) -> _Binding | None:
        """The binding that may answer now, after building its engines when it is time to."""
        if binding.freshness.current():
            return binding
        ready = decision.attempt(lambda: self._settle(binding), binding.source.options)
        if ready is None:  # the build failed: from now on this executor is MXNet's
            self._state.to(Stage.LEFT)
            self._mxtrt = None
        return self._mxtrt if ready else None

    def _settle(self, binding: _Binding) -> bool:
        try:
            return binding.freshness.settle()
        except RefusedNodesError as refusal:
            self._mxtrt = None
            refused = {**binding.refused, **refusal.reasons}
            binding.source.give_engines(self, build=True, refused=refused)
            return self._mxtrt is not None


def adopt(
    executor: Executor, symbol: Symbol, options: Options, weights: frozenset[str], *, build: bool
) -> None:
    """Give an executor engines, or leave it as it is with a warning.

    Args:
        executor: As MXNet bound it.
        symbol: The symbol it was bound from.
        options: Options of the bind.
        weights: Names of the arguments and auxiliary states that are weights.
        build: Build the engines now, from the present values; otherwise at the first forward.
    """
    source = _Source(symbol, options, weights)
    decision.attempt(lambda: source.give_engines(executor, build=build), options, executor._ctx)


def _attach(executor: Executor, binding: _Binding | None) -> InferenceExecutor:
    executor.__class__ = InferenceExecutor
    executor._mxtrt, executor._state = binding, State()
    attached: InferenceExecutor = executor
    return attached
