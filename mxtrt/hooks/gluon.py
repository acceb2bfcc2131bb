"""``HybridBlock``: hybridized networks, ``SymbolBlock`` and ``net.optimize_for``.

A hybridized block keeps its own graph and ``CachedOp``, which training, export and anything
unusual go on using.  Beside them stand bindings: the partitioned graph and its ``CachedOp``, which
answer calls outside ``autograd.record`` and ``autograd.train_mode``.  There is one for every kind
of inputs, because MXNet infers the graph anew for each: their dtypes and their context.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mxnet import autograd
from mxnet.base import MXNetError
from mxnet.gluon import block as gluon_block
from mxnet.gluon.parameter import Parameter
from mxnet.ndarray import NDArray
from mxnet.symbol.numpy import _Symbol as NumpySymbol

from mxtrt.config import Options
from mxtrt.hooks import decision, training
from mxtrt.hooks.beside import Beside, touches
from mxtrt.hooks.bound import (
    Bound,
    FirstAlone,
    LeftError,
    Op,
    PostponedError,
    RetiredError,
    flags_of,
)
from mxtrt.hooks.partitioned import BACKEND, partition_symbol, until_accepted
from mxtrt.hooks.tries import Signature, Tries, signature_of
from mxtrt.node import library
from mxtrt.observe.counters import count
from mxtrt.plan.inline import OtherArraysError
from mxtrt.plan.later import Tried
from mxtrt.plan.state import Stage, State
from mxtrt.system import background
from mxtrt.system.threads import rlock
from mxtrt.weights.paging import gpu_of

__all__ = ["install", "standing"]

_log = logging.getLogger("mxtrt")
_BINDING = "_mxtrt"

# A block has engines for so many kinds of inputs; the engines of each hold the weights anew.
_MOST_KINDS = 8


class _NoEngineError(Exception):
    """A bind failed, or found nothing that is worth an engine."""


class _Epoch:
    """Changes whenever any Parameter has got new arrays (not new values in its arrays)."""

    now = object()


class _BlockBinding:
    """The engines of one hybridized block, for inputs of one kind.

    Args:
        block: The block, its own graph and ``CachedOp`` built.
        options: Options of the bind.
        about: What stands for the block, see :func:`mxtrt.ready`.
        kind: Dtype, storage type and context of every input.

    Attributes:
        kind: The same.
    """

    def __init__(self, block: Any, options: Options, about: object, kind: Signature) -> None:
        self.kind = kind
        self._about = about
        self._options = options
        self._context = kind[0][-1]
        data, self._graph = block._cached_graph
        self._places = {variable.name: i for i, variable in enumerate(data)}
        self._flags = block._flags
        self._parameters = {
            name: place
            for name, (is_data, place) in zip(
                self._graph.list_inputs(), block._cached_op_args, strict=True
            )
            if not is_data
        }
        self._bound: Bound | None = None
        self._epoch: object = None
        self._refused: dict[str, str] = {}
        self._was_bound = False
        self._rebound = Tried()  # binding to other arrays, or around other nodes
        self._state = State()
        self._lock = rlock()
        # The epoch of its arrays, and what answers from copies of them.
        self._beside: tuple[object, Beside[Callable[..., list[NDArray]]]] | None = None

    def ready(self, flat: Sequence[NDArray]) -> Bound | None:
        """What may answer a call with these arrays, built if need be; None for not now.

        Raises:
            _NoEngineError: There is no engine, now and later.
        """
        # The epoch first: a thread that replaces the bound arrays changes it afterwards.
        epoch, bound = self._epoch, self._bound
        if epoch is _Epoch.now and bound is not None and bound.freshness.current():
            return bound
        with self._lock:
            if self._state.left:
                raise _NoEngineError
            outcome = decision.attempt(
                lambda: until_accepted(lambda known: self._settle(flat, known), self._refused),
                self._options,
                self._context,
            )
            if outcome is None:
                self._state.to(Stage.LEFT)
                self._bound = None
                raise _NoEngineError
            return self._bound if outcome else None

    @property
    def awaits(self) -> bool:
        """Whether engines are being built, without which it does not answer."""
        bound = self._bound
        return self._rebound.awaited or (bound is not None and bound.freshness.awaits)

    @functools.cached_property
    def _touches(self) -> bool:
        """Whether MXNet's operators touch weights that engines may be reading."""
        return touches(self._graph)

    def beside(self, flat: Sequence[NDArray]) -> list[NDArray] | None:
        """MXNet's outputs, from copies of the weights; None where it touches none of them.

        Raises:
            MXNetError: MXNet's.
        """
        if not self._touches:
            return None
        epoch, kept = _Epoch.now, self._beside
        if kept is None or kept[0] is not epoch:
            arrays = {name: p.data(self._context) for name, p in self._parameters.items()}
            kept = self._beside = epoch, Beside(arrays, self._plain)
        return kept[1]()(flat)

    def _plain(self, weights: Mapping[str, NDArray]) -> Callable[..., list[NDArray]]:
        """The block's own graph with these weights."""
        places = self._places
        names = self._graph.list_inputs()
        op = Op(self._graph, flags_of(names, places, self._flags))

        def answer(flat: Sequence[NDArray]) -> list[NDArray]:
            return op([flat[places[n]] if n in places else weights[n] for n in names])

        return answer

    def answered(self, bound: Bound) -> None:
        """Let go of the copies, where no engine is being built."""
        if self._beside is not None and not bound.awaits:
            self._beside = None
            background.submit(library().trim)

    def _settle(self, flat: Sequence[NDArray], refused: Mapping[str, str]) -> bool | None:
        """Whether the engines may answer now; None when no segment is worth an engine."""
        if self._rebound.awaited:
            return False
        if (made := self._rebound.result()) is not None:
            self._bound, self._refused, self._epoch = made
            self._was_bound = True
            refused = self._refused
        data: dict[str, Any] = {}
        epoch = _Epoch.now
        if self._epoch is not epoch or self._refused != refused:
            arrays = {name: p.data(self._context) for name, p in self._parameters.items()}
            if not all(map(library().is_readable, (*flat, *arrays.values()))):
                return False  # MXNet's own operators then raise what failed
            bound = self._bound
            if (
                bound is None
                or self._refused != refused
                or any(bound.arrays[name] is not array for name, array in arrays.items())
            ):
                if self.kind != tuple(known[1:] for known in signature_of(flat)):
                    return False  # inputs of another kind than this binding's
                if not self._rebound.waits(
                    self._options, gpu_of(self._context), first=not self._was_bound
                ):
                    copies = [array.copyto(array.ctx) for array in flat]  # they are not read now
                    self._rebound.begin(
                        lambda: self._made(copies, arrays, refused, epoch), self._about
                    )
                    return False
                data = self._named(flat)
                self._bound, self._refused = self._bind(flat, arrays, refused), dict(refused)
                self._was_bound = True
            self._epoch = epoch
        return None if self._bound is None else self._bound.freshness.settle(data)

    def _made(
        self,
        flat: Sequence[NDArray],
        arrays: Mapping[str, Any],
        refused: Mapping[str, str],
        epoch: object,
    ) -> tuple[Bound | None, dict[str, str], object]:
        """What is bound in the background, engines and all; the nodes refused, and the epoch."""

        def bind(known: Mapping[str, str]) -> tuple[Bound | None, dict[str, str], object]:
            bound = self._bind(flat, arrays, known)
            if bound is not None:
                bound.freshness.settle(self._named(flat))
            return bound, dict(known), epoch

        return until_accepted(bind, refused)

    def _named(self, flat: Sequence[NDArray]) -> dict[str, NDArray]:
        return {name: flat[i] for name, i in self._places.items()}

    def _bind(
        self, flat: Sequence[NDArray], arrays: Mapping[str, Any], refused: Mapping[str, str]
    ) -> Bound | None:
        """Bind to these arrays; None when no segment is worth an engine."""
        given = {**arrays, **self._named(flat)}
        symbol = partition_symbol(
            self._graph,
            {name: given[name] for name in self._graph.list_arguments()},
            {name: given[name] for name in self._graph.list_auxiliary_states()},
            self._context,
            self._options,
            frozenset(arrays),
            refused,
        )
        if not symbol.plan.nodes:
            return None
        return Bound(symbol, self._places, self._parameters, arrays, flat, self._flags, self._about)


class _Bindings:
    """The bindings of one hybridized block: one for every kind of inputs.

    Args:
        block: The block, its own graph and ``CachedOp`` built.
        options: Options of the binds.

    Attributes:
        about: What stands for the block, see :func:`mxtrt.ready`.
    """

    def __init__(self, block: Any, options: Options) -> None:
        self.about = object()
        self._new = functools.partial(_BlockBinding, block, options, self.about)
        self._parameters = [place for is_data, place in block._cached_op_args if not is_data]
        self._in_format, self._out_format = block._in_format, block._out_format
        self._is_numpy = isinstance(block._cached_graph[1], NumpySymbol)
        self._mxnet_first = FirstAlone()
        self._kinds: dict[Signature, _BlockBinding] = {}
        self._latest: dict[Any, _BlockBinding] = {}  # by context, if there are several
        self._tries = Tries()
        self._told: set[str] = set()
        self._arrays: list[NDArray] = []
        self._contexts: set[Any] = set()
        self._epoch: object = None

    def prepare(self, args: tuple[Any, ...]) -> None:
        """Build the engines for calls with arguments like these."""
        flat, _ = _flatten(args)
        if all(isinstance(array, NDArray) for array in flat):
            self._look_at_parameters()
            binding = self._of_kind(flat)
            if binding is not None:
                self._ready(binding, flat)

    def call(self, args: tuple[Any, ...], in_mxnet: Callable[[], Any]) -> Any:
        """Answer a call for inference.

        Args:
            args: The arguments.
            in_mxnet: Has MXNet's operators answer it.
        """
        if not self._latest and self._epoch is _Epoch.now and not self._tries.due():
            return self.in_mxnet(in_mxnet)  # the quick way while the block has no engine
        flat, form = _flatten(args)
        if form != self._in_format and not _differ_in_none(form, self._in_format):
            return self.in_mxnet(in_mxnet)
        for find in (self._latest_of, self._of_kind):
            binding = find(flat)
            if binding is None:
                continue
            bound = self._ready(binding, flat)
            if bound is None:
                if binding.awaits:
                    return self._meanwhile(binding, flat, in_mxnet)
                return self.in_mxnet(in_mxnet)
            try:
                outputs = bound(flat)
            except OtherArraysError:
                continue
            except (LeftError, RetiredError):
                return self._instead(in_mxnet)
            except PostponedError as postponed:
                answer = self._meanwhile(binding, flat, in_mxnet)
                bound.await_engine(flat, postponed.pause)
                return answer
            except MXNetError as error:
                # MXNet's own operators say whether the inputs or the engines are at fault.
                answer = self._instead(in_mxnet)
                bound.leave(flat, error)
                return answer
            binding.answered(bound)
            return self._regrouped(outputs)
        return self._instead(in_mxnet) if self._latest else self.in_mxnet(in_mxnet)

    def standing(self, flat: Sequence[NDArray]) -> Bound | None:
        """What answers these arrays now and needs nothing done for it."""
        binding = self._latest_of(flat)
        bound = None if binding is None or binding.awaits else self._ready(binding, flat)
        stands = bound is not None and bound.takes(flat) and bound.freshness.current()
        return bound if stands else None

    def in_mxnet(self, call: Callable[[], Any]) -> Any:
        """Have MXNet's operators answer a call."""
        return self._mxnet_first(call)

    def _regrouped(self, outputs: list[NDArray]) -> Any:
        """What the block returns for some outputs of its graph."""
        if self._is_numpy:
            outputs = [output.as_np_ndarray() for output in outputs]
        return gluon_block._regroup(outputs, self._out_format)

    def _meanwhile(
        self, binding: _BlockBinding, flat: Sequence[NDArray], call: Callable[[], Any]
    ) -> Any:
        """Have MXNet's operators answer a call while an engine is being built."""
        outputs = binding.beside(flat)
        answer = self._mxnet_first(call) if outputs is None else self._regrouped(outputs)
        count("postponed")
        return answer

    def _instead(self, call: Callable[[], Any]) -> Any:
        """Have MXNet's operators answer a call for inference in place of an engine."""
        answer = self._mxnet_first(call)
        count("fallbacks")
        return answer

    def _latest_of(self, flat: Sequence[NDArray]) -> _BlockBinding | None:
        """The binding that was in use last in the context of these arrays."""
        if self._epoch is not _Epoch.now:
            self._look_at_parameters()
        return self._latest.get(self._place(flat))

    def _of_kind(self, flat: Sequence[NDArray]) -> _BlockBinding | None:
        """The binding for arrays of their kind; None if they are MXNet's, or not looked at."""
        if not self._tries.due():
            return None
        signature = signature_of(flat)
        if self._tries.are_known(signature):
            return None
        kind = tuple(known[1:] for known in signature)
        if kind not in self._kinds and (reason := self._reason_against(kind)) is not None:
            self._tries.leave(signature)
            if reason and reason not in self._told:
                self._told.add(reason)
                _log.warning("calls whose %s run as plain MXNet", reason)
            return None
        binding = self._kinds.get(kind)
        return binding or self._kinds.setdefault(kind, self._new(kind))

    def _reason_against(self, kind: Signature) -> str | None:
        """Why inputs of a kind are MXNet's; empty if MXNet refuses them, None if they are not."""
        contexts = {context for _, _, context in kind}
        if len(contexts) != 1 or (self._contexts and not contexts <= self._contexts):
            return ""
        stypes = {stype for _, stype, _ in kind} - {"default"}
        if stypes:
            return f"inputs are {' and '.join(sorted(stypes))}"
        if len(self._kinds) >= _MOST_KINDS:
            return f"inputs are of more than {_MOST_KINDS} combinations of dtypes and contexts"
        return None

    def _ready(self, binding: _BlockBinding, flat: Sequence[NDArray]) -> Bound | None:
        """What a binding may answer with now."""
        place = self._place(flat)
        try:
            bound = binding.ready(flat)
        except _NoEngineError:
            self._tries.failed(signature_of(flat))
            self._kinds.pop(binding.kind, None)
            if self._latest.get(place) is binding:
                self._latest.pop(place, None)
            return None
        if bound is not None and self._latest.get(place) is not binding:
            self._latest[place] = binding
            self._tries.succeeded()
        return bound

    def _place(self, flat: Sequence[NDArray]) -> Any:
        return None if len(self._contexts) == 1 else flat[0].ctx

    def _look_at_parameters(self) -> None:
        """Take note of the arrays that the parameters have now."""
        epoch, arrays = _Epoch.now, []
        # Where one is not initialized MXNet raises when the block is called.
        with contextlib.suppress(RuntimeError):
            for parameter in self._parameters:
                arrays += parameter.list_data()
        old = self._arrays
        if len(arrays) != len(old) or any(a is not b for a, b in zip(arrays, old, strict=True)):
            contexts = {array.ctx for array in arrays}
            if contexts != self._contexts:
                self._kinds, self._latest, self._contexts = {}, {}, contexts
            self._tries, self._arrays = Tries(), arrays
        self._epoch = epoch


def standing(block: Any, data: Sequence[NDArray]) -> Bound | None:
    """What answers a call for inference now and needs nothing done for it.

    Args:
        block: The block.
        data: The arrays of a call that it has answered.

    Returns:
        None where there is no such.
    """
    bindings = block.__dict__.get(_BINDING)
    return bindings.standing(data) if isinstance(bindings, _Bindings) else None


def _flatten(args: tuple[Any, ...]) -> tuple[list[Any], Any]:
    """The arrays among the arguments of a call, in order, and how they are nested."""
    flat, form = gluon_block._flatten(args, "input")
    return [array for array in flat if array is not None], form


def _differ_in_none(one: Any, other: Any) -> bool:
    """Whether MXNet takes two forms of arguments for one: they differ in None at their end."""
    short, long = sorted((one, other), key=len)
    return bool(long[: len(short)] == short and set(map(str, long[len(short) :])) <= {"-1"})


# While MXNet traces a block it sets name scopes on the block, so two threads must not trace one.
_first_calls = rlock()

# Stands for a block's bindings while its first call makes them.
_UNDER_WAY = object()


def _wrap_build_cache(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def _build_cache(self: Any, *args: Any) -> None:
        before, options, bindings = self._cached_op, None, None
        with _first_calls:
            if self._cached_op is not before:
                return  # another thread came first
            explicit = self._backend == BACKEND
            if explicit or not self._backend:
                options = decision.options_for(self._backend_opts if explicit else None)
            if options is not None:
                backend, self._backend = self._backend, None
                self.__dict__[_BINDING] = _UNDER_WAY
                try:
                    original(self, *args)
                    bindings = _Bindings(self, options)
                finally:
                    self._backend = backend
                    self.__dict__[_BINDING] = bindings
        if options is None:
            original(self, *args)
        elif bindings is not None and _is_inference():
            bindings.prepare(args)

    return _build_cache


def _wrap_call(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def _call_cached_op(self: Any, *args: Any) -> Any:
        if self._cached_op is None:
            self._build_cache(*args)
        bindings = self.__dict__.get(_BINDING)
        if bindings is _UNDER_WAY:
            with _first_calls:
                bindings = self.__dict__.get(_BINDING)

        def in_mxnet() -> Any:
            return original(self, *args)

        if not _is_inference():
            answer = in_mxnet() if bindings is None else bindings.in_mxnet(in_mxnet)
            training.called(self)
            return answer
        if bindings is None:
            return in_mxnet()
        if self._callback is not None:
            return bindings.in_mxnet(in_mxnet)
        return bindings.call(args, in_mxnet)

    return _call_cached_op


def _is_inference() -> bool:
    return not autograd.is_recording() and not autograd.is_training()


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
        finally:  # afterwards: a thread in between would take the old arrays for new
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
