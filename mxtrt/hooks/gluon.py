"""``HybridBlock``: hybridized networks, ``SymbolBlock`` and ``net.optimize_for``.

A hybridized block keeps its own graph and ``CachedOp``, which training, export and anything
unusual go on using.  Beside them stands a binding: the partitioned graph and its ``CachedOp``,
which answers calls outside ``autograd.record`` and ``autograd.train_mode``.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from mxnet import autograd
from mxnet.base import MXNetError
from mxnet.gluon import block as gluon_block
from mxnet.gluon.parameter import Parameter
from mxnet.ndarray import CachedOp, NDArray
from mxnet.symbol.numpy import _Symbol as NumpySymbol

from mxtrt.config import Options
from mxtrt.counters import count
from mxtrt.errors import EngineError
from mxtrt.hooks import decision
from mxtrt.hooks.freshness import Freshness
from mxtrt.hooks.inline import InlineRun
from mxtrt.hooks.partitioned import BACKEND, EngineSymbol, partition_symbol, until_accepted
from mxtrt.models import mxnet_reason

__all__ = ["install"]

_log = logging.getLogger("mxtrt")
_BINDING = "_mxtrt"

# Kinds of arguments that are known to be MXNet's.
_MOST_LEFT = 1000

Signature = tuple[tuple[tuple[int, ...], Any], ...]


class _RetiredError(Exception):
    """The engine failed in this call, which is MXNet's now."""


class _Epoch:
    """Changes whenever any Parameter has got new arrays (not new values in its arrays)."""

    now = object()


class _FirstAlone:
    """Calls of a ``CachedOp``: the first one alone.

    MXNet looks for dynamic shapes in it and takes no lock for that (``CheckDynamicShapeExists`` in
    ``src/imperative/cached_op.cc``); later calls are safe in many threads.  The call that warms a
    block up is the first one in plain MXNet; here an engine may have answered that one.
    """

    def __init__(self) -> None:
        self._done = False
        self._lock = threading.RLock()

    def __call__(self, call: Callable[[], Any]) -> Any:
        """What the call returns."""
        if self._done:
            return call()
        with self._lock:
            outputs = call()
            self._done = True
            return outputs


class _Bound:
    """A block's graph with engines, as it was bound to some arrays.

    Args:
        symbol: The partitioned graph.
        data: Place among a call's arrays of every input that is data, by name.
        parameters: The Parameter of every other input, by name.
        arrays: Arrays of the parameters, by name.
        context: Where they are.
        flags: Of ``hybridize``.
    """

    def __init__(
        self,
        symbol: EngineSymbol,
        data: Mapping[str, int],
        parameters: Mapping[str, Parameter],
        arrays: Mapping[str, Any],
        context: Any,
        flags: Iterable[tuple[str, Any]],
    ) -> None:
        names = symbol.list_inputs()
        self._inputs: list[tuple[bool, Any]] = [
            (True, data[name]) if name in data else (False, parameters[name]) for name in names
        ]
        places = {
            is_data: [i for i, one in enumerate(self._inputs) if one[0] == is_data]
            for is_data in (True, False)
        }
        self._op = CachedOp(
            symbol, [("data_indices", places[True]), ("param_indices", places[False]), *flags]
        )
        self._op_first = _FirstAlone()
        self._inline = InlineRun.of(symbol.plan)
        self._plan = symbol.plan
        self.arrays = arrays
        self.context = context
        self.freshness = Freshness(symbol.plan, arrays)

    def __call__(self, flat: Sequence[NDArray]) -> list[NDArray]:
        """The outputs.

        Args:
            flat: The arrays among the arguments of a call.

        Raises:
            MXNetError: The engines do not accept these inputs.
            _RetiredError: The engine failed.
        """
        context = self.context
        inputs = [flat[i] if is_data else i.data(context) for is_data, i in self._inputs]
        outputs = self._inline(inputs) if self._inline is not None else None
        if outputs is None:
            if self._plan.failures:
                raise _RetiredError
            outputs = self._op_first(lambda: self._op(*inputs))
            if isinstance(outputs, NDArray):
                outputs = [outputs]
        return list(outputs)


class _BlockBinding:
    """The engines of one hybridized block.

    Args:
        block: The block, its own graph and ``CachedOp`` built.
        options: Options of the bind.
    """

    def __init__(self, block: Any, options: Options) -> None:
        self._options = options
        self._data, self._graph = block._cached_graph
        self._flags = block._flags
        self._is_numpy = isinstance(self._graph, NumpySymbol)
        self._parameters = {
            name: place
            for name, (is_data, place) in zip(
                self._graph.list_inputs(), block._cached_op_args, strict=True
            )
            if not is_data
        }
        self._bound: _Bound | None = None
        self._epoch: object = None
        self._failed = False
        self._refused: dict[str, str] = {}
        self._left: dict[Signature, str] = {}
        self._context: Any = None
        self._lock = threading.RLock()

    def ready(self, args: tuple[Any, ...]) -> _Bound | None:
        """What may answer a call with these arguments, if engines may; built if need be."""
        if self._failed or autograd.is_recording() or autograd.is_training():
            return None
        # In this order: whoever puts new arrays in place of what is bound now changes the epoch.
        epoch, bound = self._epoch, self._bound
        if epoch is _Epoch.now and bound is not None and bound.freshness.current():
            return bound
        with self._lock:
            outcome = decision.attempt(
                lambda: until_accepted(lambda known: self._settle(args, known), self._refused),
                self._options,
                self._context or _inputs(args)[0].ctx,
            )
            if outcome is None:
                self._failed = True
            return self._bound if outcome else None

    def leave(self, args: tuple[Any, ...], error: MXNetError) -> None:
        """Leave calls with arguments like these to MXNet: the engines did not take them."""
        signature, reason = _signature(args), mxnet_reason(error)
        if reason not in self._left.values():
            shapes = " and ".join(str(shape) for shape, _ in signature)
            _log.warning("calls with inputs %s run as plain MXNet: %s", shapes, reason)
        if len(self._left) == _MOST_LEFT:
            self._left.clear()
        self._left[signature] = reason

    def is_left(self, args: tuple[Any, ...]) -> bool:
        """Whether a call with these arguments was left to MXNet."""
        if not self._left or autograd.is_recording() or autograd.is_training():
            return False
        return _signature(args) in self._left

    def answer_in_mxnet(self, call: Callable[[], Any]) -> Any:
        """Make a call of MXNet's operators for inference in place of an engine."""
        count("fallbacks")
        return call()

    def _settle(self, args: tuple[Any, ...], refused: Mapping[str, str]) -> bool:
        epoch = _Epoch.now
        if self._epoch is not epoch or self._refused != refused:
            context = self._context or _inputs(args)[0].ctx
            arrays = {name: p.data(context) for name, p in self._parameters.items()}
            bound = self._bound
            if (
                bound is None
                or self._refused != refused
                or any(bound.arrays[name] is not array for name, array in arrays.items())
            ):
                self._refused = dict(refused)
                self._bound = self._bind(args, arrays, context)
                self._failed = self._bound is None
            self._epoch = epoch
        if self._bound is None:
            return False
        names = (variable.name for variable in self._data)
        return self._bound.freshness.settle(dict(zip(names, _inputs(args), strict=False)))

    def _bind(self, args: tuple[Any, ...], arrays: dict[str, Any], context: Any) -> _Bound | None:
        """Bind to these arrays; None when no segment is worth an engine."""
        flat = _inputs(args)
        contexts = {str(array.ctx) for array in flat}
        if len(contexts) > 1:
            raise EngineError(f"its inputs are on {' and '.join(sorted(contexts))}")
        places = {variable.name: i for i, variable in enumerate(self._data)}
        given = {**arrays, **{name: flat[i] for name, i in places.items()}}
        states = {name: arrays[name] for name in self._graph.list_auxiliary_states()}
        arguments = {name: given[name] for name in self._graph.list_arguments()}
        symbol = partition_symbol(
            self._graph,
            arguments,
            states,
            context,
            self._options,
            frozenset(arrays),
            self._refused,
        )
        if not symbol.plan.nodes:
            return None
        self._context = context
        self._left.clear()
        return _Bound(symbol, places, self._parameters, arrays, context, self._flags)

    def answer(self, bound: _Bound, block: Any, args: tuple[Any, ...]) -> Any:
        """Answer a call of the block.

        Raises:
            MXNetError: The engines do not accept these inputs.
            _RetiredError: The engine failed.
        """
        flat, form = gluon_block._flatten(args, "input")
        if form != block._in_format:
            raise MXNetError("the structure of the arguments is not the one of the bind")
        outputs = bound([array for array in flat if array is not None])
        if self._is_numpy:
            outputs = [output.as_np_ndarray() for output in outputs]
        return gluon_block._regroup(outputs, block._out_format)


class _Bindings:
    """The bindings of one hybridized block: one for every context that its parameters are on."""

    def __init__(self, block: Any, options: Options) -> None:
        self._new = functools.partial(_BlockBinding, block, options)
        self.mxnet_first = _FirstAlone()
        contexts: set[Any] = set()
        with contextlib.suppress(RuntimeError):  # not initialized: MXNet says so
            for parameter in block.collect_params().values():
                contexts.update(parameter.list_ctx())
        self._one = self._new() if len(contexts) <= 1 else None
        self._several: dict[Any, _BlockBinding] = {}

    def find(self, args: tuple[Any, ...]) -> _BlockBinding:
        """The binding for a call with these arguments."""
        if self._one is not None:
            return self._one
        context = _inputs(args)[0].ctx
        binding = self._several.get(context)
        return binding if binding is not None else self._several.setdefault(context, self._new())


def _inputs(args: tuple[Any, ...]) -> list[Any]:
    """The arrays among the arguments of a call, in order."""
    return [array for array in gluon_block._flatten(args, "input")[0] if array is not None]


def _signature(args: tuple[Any, ...]) -> Signature:
    """Shapes and dtypes of the arrays among the arguments of a call."""
    return tuple((array.shape, array.dtype) for array in _inputs(args))


def _wrap_build_cache(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def _build_cache(self: Any, *args: Any) -> None:
        explicit = self._backend == BACKEND
        options = None
        if explicit or not self._backend:
            options = decision.options_for(self._backend_opts if explicit else None)
        if options is None:
            original(self, *args)
            return
        backend, self._backend = self._backend, None
        try:
            original(self, *args)
        finally:
            self._backend = backend
        bindings = self.__dict__[_BINDING] = _Bindings(self, options)
        if all(isinstance(array, NDArray) for array in _inputs(args)):
            bindings.find(args).ready(args)

    return _build_cache


def _wrap_call(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def _call_cached_op(self: Any, *args: Any) -> Any:
        if self._cached_op is None:
            self._build_cache(*args)
        bindings = self.__dict__.get(_BINDING)
        if bindings is None:
            return original(self, *args)

        def in_mxnet() -> Any:
            return bindings.mxnet_first(lambda: original(self, *args))

        if self._callback is None:
            binding = bindings.find(args)
            if binding.is_left(args):
                return binding.answer_in_mxnet(in_mxnet)
            bound = binding.ready(args)
            if bound is not None:
                try:
                    return binding.answer(bound, self, args)
                except _RetiredError:
                    outputs = in_mxnet()
                    count("fallbacks")
                    return outputs
                except MXNetError as error:
                    # MXNet's own operators say whether the inputs or the engines are at fault.
                    outputs = binding.answer_in_mxnet(in_mxnet)
                    binding.leave(args, error)
                    return outputs
        return in_mxnet()

    return _call_cached_op


def _wrap_clear(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def _clear_cached_op(self: Any) -> None:
        self.__dict__.pop(_BINDING, None)
        original(self)

    return _clear_cached_op


def _wrap_new_arrays(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def renewing(self: Parameter, *args: Any, **kwargs: Any) -> Any:
        try:
            return original(self, *args, **kwargs)
        finally:  # not before: another thread would take the old arrays for the new
            _Epoch.now = object()

    return renewing


def _state(self: Any) -> dict[str, Any]:
    """What a copy or pickle of a block keeps: not what the first call of the copy makes anew.

    MXNet itself refuses to pickle or copy a hybridized block that was called.
    """
    state = {name: value for name, value in self.__dict__.items() if name != _BINDING}
    if self._cached_op is not None:
        state["_cached_op"] = None
        if not isinstance(self, gluon_block.SymbolBlock):  # its graph is all there is of it
            state.update(_cached_graph=(), _cached_op_args=[])
    return state


def install() -> None:
    """Put the wrappers in place."""
    block = gluon_block.HybridBlock
    block.__getstate__ = _state
    block._build_cache = _wrap_build_cache(block._build_cache)
    block._call_cached_op = _wrap_call(block._call_cached_op)
    block._clear_cached_op = _wrap_clear(block._clear_cached_op)
    for name in ("_init_impl", "cast", "reset_ctx"):
        setattr(Parameter, name, _wrap_new_arrays(getattr(Parameter, name)))
