"""The executor of a bind that got engines.

It is MXNet's own executor, with one more of the partitioned symbol beside it.  Both work on
the same argument arrays.  A forward for inference runs the partitioned one; training, a
monitor, and weights that changed a moment ago run MXNet's.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import sys
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from mxnet.base import _LIB, MXNetError, check_call
from mxnet.executor import Executor
from mxnet.ndarray import NDArray

from mxtrt.config import Options
from mxtrt.errors import RefusedNodesError
from mxtrt.graph.symbol import text_of
from mxtrt.hooks import decision
from mxtrt.hooks.beside import Beside, touches
from mxtrt.hooks.partitioned import (
    EngineSymbol,
    partition_symbol,
    until_accepted,
)
from mxtrt.node import library
from mxtrt.observe.counters import count
from mxtrt.plain.forward import bound
from mxtrt.plan import later
from mxtrt.plan.freshness import Freshness
from mxtrt.plan.inline import InlineRun, OtherArraysError
from mxtrt.plan.later import Tried
from mxtrt.plan.state import Stage, State
from mxtrt.system import background
from mxtrt.system.background import Job
from mxtrt.system.patience import Patience
from mxtrt.system.recent import Recent
from mxtrt.weights.paging import gpu_of

if TYPE_CHECKING:
    from mxnet.symbol import Symbol

__all__ = ["InferenceExecutor", "adopt"]

#: Executors of a symbol that get engines although those before them were soon given up, and how
#: long is soon, in times of what the engines took.
_BINDS_IN_A_ROW, _PAUSE = 32, 50.0

_patiences: Recent[Patience] = Recent(64, 64)


@dataclass(frozen=True)
class _Source:
    """What an executor was bound from."""

    symbol: Symbol
    options: Options
    weights: frozenset[str]

    @functools.cached_property
    def touches(self) -> bool:
        """Whether MXNet's operators touch weights that engines may be reading."""
        return touches(self.symbol, self.weights)

    def engines(
        self, executor: Executor, *, build: bool, refused: Mapping[str, str] | None = None
    ) -> _Engines | None:
        """Partition the symbol for an executor; None where it gets no engines.

        Args:
            executor: The executor.
            build: Build the engines now.
            refused: Reasons why nodes stay in MXNet, by name.

        Raises:
            EngineError: The engine refused the symbol.
        """
        return self.engines_of(_Arrays.of(executor), build, refused)

    def engines_of(
        self, arrays: _Arrays, build: bool, refused: Mapping[str, str] | None
    ) -> _Engines | None:
        """The same of an executor's arrays."""
        return until_accepted(lambda known: self._try(arrays, build, known), refused)

    def _try(self, given: _Arrays, build: bool, refused: Mapping[str, str]) -> _Engines | None:
        arrays = {**given.arguments, **given.states}
        partitioned = partition_symbol(
            self.symbol,
            dict(given.arguments),
            dict(given.states),
            given.context,
            self.options,
            self.weights & arrays.keys(),
            refused,
        )
        if not partitioned.plan.nodes:
            return None
        if build:
            partitioned.plan.build(arrays, shares=True)
        return _Engines(partitioned, Freshness(partitioned.plan, arrays, self), self, refused)


@dataclass(frozen=True)
class _Arrays:
    """What an executor works on, without the executor."""

    arguments: Mapping[str, Any]
    states: Mapping[str, Any]
    context: Any

    @classmethod
    def of(cls, executor: Executor) -> _Arrays:
        """An executor's."""
        return cls(dict(executor.arg_dict), dict(executor.aux_dict), executor._ctx)


@dataclass(frozen=True)
class _Engines:
    """The engines of a symbol, for executors of it.

    Attributes:
        symbol: The partitioned symbol.
        freshness: Keeps the engines in step with the weights.
        source: What the executors were bound from.
        refused: Reasons why nodes stay in MXNet, by name.
    """

    symbol: EngineSymbol
    freshness: Freshness
    source: _Source
    refused: Mapping[str, str]


class _Binding:
    """What an executor knows of its engines."""

    def __init__(self, executor: Executor, engines: _Engines) -> None:
        symbol = engines.symbol
        self.engines = engines
        self.symbol = symbol
        self.source = engines.source
        self.freshness = engines.freshness
        self.inline = InlineRun.of(symbol.plan, executor._ctx)
        self.inputs = {name: executor.arg_dict[name] for name in symbol.list_arguments()}
        self.executor: Executor = bound(
            symbol, {**executor.arg_dict, **executor.aux_dict}, executor._ctx
        )


class _Awaited(Protocol):
    """Engines that are to come for an executor.

    Attributes:
        source: What the executor was bound from.
        builds: Whether they are being built in the background.
    """

    source: _Source
    builds: bool

    def take(self, executor: InferenceExecutor) -> bool:
        """Give an executor its engines if they are there; whether it has nothing to wait for."""

    def on(self, executor: Executor) -> _Awaited:
        """The same for another executor of the symbol."""


class _NewEngines:
    """The engines of a symbol; they are begun when they are first asked for."""

    builds = True

    def __init__(self, source: _Source, refused: Mapping[str, str] | None = None) -> None:
        self.source = source
        self._refused = refused
        self._tried = Tried()

    def take(self, executor: InferenceExecutor) -> bool:
        """See :class:`_Awaited`."""
        if self._tried.awaited:
            return False
        made = self._tried.result()
        if made is None and not self._tried.waits(self.source.options, gpu_of(executor._ctx)):
            self.begin(executor)
            return False
        (engines,) = made or (self.source.engines(executor, build=True, refused=self._refused),)
        executor._mxtrt = None if engines is None else _Binding(executor, engines)
        return True

    def begin(self, executor: Executor) -> None:
        """Have them built from the present values of an executor's weights."""
        source, refused, arrays = self.source, self._refused, _Arrays.of(executor)
        self._tried.begin(lambda: (source.engines_of(arrays, True, refused),), source)

    def on(self, executor: Executor) -> _Awaited:
        """See :class:`_Awaited`."""
        return _NewEngines(self.source, self._refused)


class _Deferred:
    """Engines of a symbol that is bound again and again: they come where an executor stays."""

    builds = False

    def __init__(self, source: _Source, patience: Patience) -> None:
        self.source = source
        self._patience = patience

    def take(self, executor: InferenceExecutor) -> bool:
        """See :class:`_Awaited`."""
        if self._patience.allows():
            executor._awaited = awaited = _NewEngines(self.source)
            awaited.begin(executor)
        return False

    def on(self, executor: Executor) -> _Awaited:
        """See :class:`_Awaited`."""
        return _Deferred(self.source, self._patience)


class _OtherShapes:
    """Those of a symbol's engines that serve an executor's input shapes."""

    builds = True

    def __init__(self, engines: _Engines, executor: Executor) -> None:
        self.source = engines.source
        self._engines = engines
        self._job = self._begun(executor)

    def take(self, executor: InferenceExecutor) -> bool:
        """See :class:`_Awaited`."""
        if not self._job.done:
            return False
        try:
            executor._mxtrt = _Binding(executor, self._engines)
        except MXNetError:
            if later.was_postponed() is None:
                raise
            self._job = self._begun(executor)
            return False
        return True

    def on(self, executor: Executor) -> _Awaited:
        """See :class:`_Awaited`."""
        return _OtherShapes(self._engines, executor)

    def _begun(self, executor: Executor) -> Job:
        shapes = {name: array.shape for name, array in executor.arg_dict.items()}
        data = tuple(shapes[name] for name in shapes if name not in self.source.weights)
        return later.build_for(self._engines.symbol, shapes, data, self.source)


class InferenceExecutor(Executor):  # type: ignore[misc]
    """An executor whose inference runs in engines; everything else is MXNet's executor."""

    handle: Any
    outputs: list[Any]
    _mxtrt: _Binding | None
    _awaited: _Awaited | None
    _state: State  # ``LEFT`` where a rebuild failed, or a reshape to shapes without an engine
    _retired: list[Any]
    _beside: Beside[Executor] | None = None  # answers from copies of the weights
    _relatives: weakref.WeakSet[Executor] | None = (
        None  # the executors that share the memory of its outputs, itself among them
    )

    def forward(self, is_train: bool = False, **kwargs: Any) -> list[Any]:
        """Compute the outputs, as :meth:`mxnet.executor.Executor.forward` does.

        The output arrays are the same Python objects at every forward, so that one kept from
        an earlier forward shows the latest result, as it does with MXNet's executor.
        """
        heads = self.outputs
        outputs, computed_in_place = self._answer(is_train, kwargs)
        if self._relatives is not None and len(self._relatives) > 1 and not computed_in_place:
            for head, new in zip(heads, outputs, strict=True):
                _copy_into(head, new)  # the memory that the related executors read
        else:
            for head, new in zip(heads, outputs, strict=True):
                head.handle, new.handle = new.handle, head.handle
        # Kept until the next forward: another thread may still be reading one of them.
        self._retired = outputs
        self.outputs = heads
        return heads

    def forward_in_place(self) -> None:
        """Compute the outputs for inference, into the memory of MXNet's executor."""
        heads = self.outputs
        outputs, computed_in_place = self._answer(False, {})
        if not computed_in_place:
            for head, new in zip(heads, outputs, strict=True):
                _copy_into(head, new)
        self.outputs = heads

    @property
    def standing(self) -> _Binding | None:
        """What answers a forward now and needs nothing done for it; None where there is no such."""
        binding = self._mxtrt
        if self._awaited is not None or binding is None or not binding.freshness.current():
            return None
        return binding

    def _answer(self, is_train: bool, kwargs: dict[str, Any]) -> tuple[list[Any], bool]:
        """The outputs of a forward, and whether they are in the memory of MXNet's executor."""
        if self._awaited is not None and not is_train and self._monitor_callback is None:
            self._look(self._awaited)
        binding = self._mxtrt
        if (
            binding is None
            or is_train
            or self._monitor_callback is not None
            or not binding.symbol.plan.weights.isdisjoint(kwargs)
            or (binding := self._ready(binding)) is None
        ):
            outputs = [] if is_train else self._run_beside(kwargs)
            return (outputs, False) if outputs else (self._run_plain(is_train, kwargs), True)
        self._beside = None
        outputs = self._run_inline(binding, kwargs) or []
        if not outputs and binding.symbol.plan.state.retired:
            outputs = Executor.forward(self, is_train, **kwargs)
            count("fallbacks")
            return outputs, True
        return outputs or self._run(binding.executor, kwargs), False

    def _run_plain(self, is_train: bool, kwargs: dict[str, Any]) -> list[Any]:
        """Run MXNet's own operators."""
        if self._state.left and not is_train and self._monitor_callback is None:
            count("fallbacks")
        made: list[Any] = Executor.forward(self, is_train, **kwargs)
        return made

    def _run_beside(self, kwargs: dict[str, Any]) -> list[Any]:
        """Run MXNet's operators from copies of the weights; no outputs where it touches none."""
        source = self._awaits
        if (
            source is None
            or not source.touches
            or self._monitor_callback is not None
            or not source.weights.isdisjoint(kwargs)
        ):
            return []
        if self._beside is None:
            context, arrays = self._ctx, {**self.arg_dict, **self.aux_dict}
            self._beside = Beside(
                {name: arrays[name] for name in source.weights & arrays.keys()},
                lambda copies: bound(source.symbol, {**arrays, **copies}, context),
            )
        return self._run(self._beside(), kwargs)

    @property
    def _awaits(self) -> _Source | None:
        """What engines are being built of in the background; None where none are."""
        if self._awaited is not None:
            return self._awaited.source if self._awaited.builds else None
        binding = self._mxtrt
        return binding.source if binding is not None and binding.freshness.awaits else None

    def _run(self, executor: Executor, kwargs: dict[str, Any]) -> list[Any]:
        """Run another executor of the same arguments."""
        own = self.handle
        self.handle = executor.handle
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
        executor = Executor.reshape(self, partial_shaping, allow_up_sizing, **kwargs)
        executor._monitor_callback = self._monitor_callback
        executor._monitor_all = self._monitor_all
        self.share_with(executor)
        self._return_outputs()
        if self._relatives is None:
            self._relatives = weakref.WeakSet([self])
        self._relatives.add(executor)
        executor._relatives = self._relatives
        return executor

    def share_with(self, executor: Executor) -> None:
        """Give MXNet's executor of the same symbol for other input shapes the engines."""
        binding, awaited = self._mxtrt, self._awaited
        if binding is not None:
            done = decision.attempt(
                lambda: _share(executor, binding.engines), binding.source.options
            )
            if done is None:
                _attach(executor, None)._state.to(Stage.LEFT)
        elif awaited is not None:
            _attach(executor, None, awaited.on(executor))

    def _return_outputs(self) -> None:
        """Have the output arrays be those of MXNet's executor again, with the present values."""
        for head, own in zip(self.outputs, self._get_outputs(), strict=True):
            _copy_into(own, head)
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
        if self._awaits is not None:
            count("postponed")
        return self._mxtrt if ready else None

    def _look(self, awaited: _Awaited) -> None:
        """Take the engines that were built in the background, if they are there."""
        done = decision.attempt(lambda: awaited.take(self), awaited.source.options)
        if done is None:  # as above
            self._state.to(Stage.LEFT)
        if done is not False:
            self._awaited = None
            background.submit(library().trim)  # what MXNet's operators took for themselves
        else:
            count("postponed")

    def _settle(self, binding: _Binding) -> bool:
        try:
            return binding.freshness.settle()
        except RefusedNodesError as refusal:
            self._mxtrt = None
            source = binding.source
            refused = {**binding.engines.refused, **refusal.reasons}
            if not later.waits(source.options, gpu_of(self._ctx)):
                self._awaited = awaited = _NewEngines(source, refused)
                awaited.begin(self)
                return False
            engines = source.engines(self, build=True, refused=refused)
            if engines is not None:
                self._mxtrt = _Binding(self, engines)
            return engines is not None


def _copy_into(array: NDArray, values: NDArray) -> None:
    """Copy values into an array.

    MXNet copies nothing to one of int8 that oneDNN has in an order of its own
    (``CopyFromToDnsImpl`` in ``src/ndarray/ndarray.cc``): asking for its data puts it in order.
    """
    if array.dtype in (np.int8, np.uint8):
        check_call(_LIB.MXNDArrayGetData(array.handle, ctypes.byref(ctypes.c_void_p())))
    values.copyto(array)


def adopt(
    executor: Executor,
    symbol: Symbol,
    options: Options,
    weights: frozenset[str],
    *,
    build: bool,
    first: bool = True,
) -> None:
    """Give an executor engines, or leave it as it is with a warning.

    Args:
        executor: As MXNet bound it.
        symbol: The symbol it was bound from.
        options: Options of the bind.
        weights: Names of the arguments and auxiliary states that are weights.
        build: Build the engines now, from the present values; otherwise at the first forward.
        first: Whether this is the first executor of a family that shares its memory.
    """
    source = _Source(symbol, options, weights)
    may_wait = not later.waits(options, gpu_of(executor._ctx))
    patience = None
    if may_wait:
        patience = decision.attempt(lambda: _patience_with(symbol), options, executor._ctx)
        if patience is None:
            return
        if not patience.allows():
            _attach(executor, None, _Deferred(source, patience))
            return

    def give() -> None:
        if not later.waits(options, gpu_of(executor._ctx), first=first):
            awaited = _NewEngines(source)
            if build:
                awaited.begin(executor)
            _attach(executor, None, awaited)
        elif (engines := source.engines(executor, build=build)) is not None:
            _attach(executor, _Binding(executor, engines))

    begin = time.monotonic()
    decision.attempt(give, options, executor._ctx)
    done = time.monotonic()
    if patience is not None:
        weakref.finalize(executor, _ended, patience, done - begin, done).atexit = False


def _ended(patience: Patience, took: float, since: float) -> None:
    """Note that an executor is no more, whose engines took so long at a time."""
    if time.monotonic() - since < _PAUSE * took:
        patience.spent(took)


def _patience_with(symbol: Symbol) -> Patience:
    """The patience with binds of a symbol: each takes longer than MXNet's own."""
    key = hashlib.sha256(text_of(symbol).encode()).digest()
    patience = _patiences.get(key)
    if patience is None:
        patience = Patience(_BINDS_IN_A_ROW, _PAUSE)
        _patiences.put(key, patience, 1)
    return patience


def _share(executor: Executor, engines: _Engines) -> InferenceExecutor:
    """Give an executor the engines of another one, once there are some for its shapes."""
    try:
        return _attach(executor, _Binding(executor, engines))
    except MXNetError:
        if later.was_postponed() is None:
            raise
    return _attach(executor, None, _OtherShapes(engines, executor))


def _attach(
    executor: Executor, binding: _Binding | None, awaited: _Awaited | None = None
) -> InferenceExecutor:
    executor.__class__ = InferenceExecutor
    executor._mxtrt, executor._awaited, executor._state = binding, awaited, State()
    attached: InferenceExecutor = executor
    return attached
