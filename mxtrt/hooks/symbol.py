"""``Symbol.optimize_for``, ``bind`` and ``simple_bind``."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

import mxnet as mx
import numpy as np
from mxnet.executor import Executor
from mxnet.symbol import Symbol
from mxnet.util import is_np_shape

from mxtrt.config import Options
from mxtrt.graph.roles import guess_weights
from mxtrt.graph.symbol import Graph, text_of
from mxtrt.hooks import decision
from mxtrt.hooks.brought import Brought, complete, types_with, write_into
from mxtrt.hooks.executor import InferenceExecutor, adopt
from mxtrt.hooks.filling import bind_filled
from mxtrt.hooks.partitioned import (
    BACKEND,
    EngineSymbol,
    one_at_a_time,
    own,
    partition_symbol,
    until_accepted,
)
from mxtrt.plain.forward import originals
from mxtrt.system.recent import Recent

__all__ = ["give_engines", "install", "installed", "weights_of"]


def _wrap_optimize_for(original: Callable[..., Any]) -> Callable[..., Any]:
    of_others = one_at_a_time(original)

    @functools.wraps(original)
    def optimize_for(
        self: Symbol,
        backend: str,
        args: dict[str, Any] | None = None,
        aux: dict[str, Any] | None = None,
        ctx: Any = None,
        shape_dict: Any = None,
        type_dict: Any = None,
        stype_dict: Any = None,
        skip_infer: bool = False,
        **kwargs: Any,
    ) -> Any:
        inference = {
            "shape_dict": shape_dict,
            "type_dict": type_dict,
            "stype_dict": stype_dict,
            "skip_infer": skip_infer,
        }
        if backend != BACKEND:
            return of_others(self, backend, args, aux, ctx, **inference, **kwargs)
        options = _explicit(kwargs)
        arrays = {**(args or {}), **(aux or {})}
        shapes = {name: array.shape for name, array in arrays.items()}
        if not _shapes_known(self, {**(shape_dict or {}), **shapes}):
            decision.leave_alone("its engines come where it is bound with shapes", quiet=True)
            return own(self.__copy__(), None, Brought(arrays) if arrays else None, options)
        if not arrays:  # without any array MXNet infers nothing
            args = _arrays(shape_dict, type_dict, ctx)
        weights = decision.attempt(lambda: weights_of(self, options), options, ctx)
        done = None
        if weights is not None:
            keep = {*(args or {}), *(shape_dict or {})} - weights
            done = give_engines(self, args, aux, ctx, options, weights, inference, keep=keep)
        if done is None:  # MXNet's own copy, as optimize_for returns a new symbol
            return self.__copy__()
        symbol, kept_args, kept_aux = done
        for given, kept in ((args, kept_args), (aux, kept_aux)):
            if given is not None and kept is not None:
                for name in given.keys() - kept.keys():
                    del given[name]
        return symbol

    return optimize_for


def give_engines(
    symbol: Symbol,
    args: Mapping[str, Any] | None,
    aux: Mapping[str, Any] | None,
    ctx: Any,
    options: Options,
    weights: Collection[str],
    inference: Mapping[str, Any],
    refused: Mapping[str, str] | None = None,
    keep: Collection[str] = (),
) -> tuple[EngineSymbol, dict[str, Any] | None, dict[str, Any] | None] | None:
    """Partition a symbol and build its engines.

    Args:
        symbol: The symbol.
        args: Arguments by name.
        aux: Auxiliary states by name.
        ctx: Context of the bind.
        options: Options of the bind.
        weights: Names of those of them that are weights, if they are given.
        inference: ``shape_dict``, ``type_dict``, ... as ``optimize_for`` takes them.
        refused: Reasons why nodes stay in MXNet, by name.
        keep: Arguments that the partitioned symbol has too, whether or not its values depend on
            them.

    Returns:
        The partitioned symbol, and the arguments and states that it has left; None if it is
        MXNet's, which has been warned of.
    """
    arrays = {**(args or {}), **(aux or {})}
    known = frozenset(weights).intersection(arrays)

    def engines(refused: Mapping[str, str]) -> tuple[EngineSymbol, Any, Any]:
        # MXNet removes weights from the dictionaries: from copies, until the engines exist.
        kept_args = None if args is None else dict(args)
        kept_aux = None if aux is None else dict(aux)
        partitioned = partition_symbol(
            symbol, kept_args, kept_aux, ctx, options, known, refused, keep, **inference
        )
        plan = partitioned.plan
        plan.build(arrays)
        for node in plan.nodes:
            node.stands_alone = True
        gone = known.difference(partitioned.list_inputs(), plan.weights)
        plan.unread = {name: arrays[name] for name in gone}
        return partitioned, kept_args, kept_aux

    return decision.attempt(lambda: until_accepted(engines, refused), options, ctx)


#: Names of the weights of symbols that were bound last.
_guessed: Recent[frozenset[str]] = Recent(16, 100_000)


def weights_of(symbol: Symbol, options: Options) -> frozenset[str]:
    """Names of the inputs of a symbol that are weights, as far as it tells.

    Args:
        symbol: The symbol.
        options: Options of the bind.
    """
    text = text_of(symbol)
    key = hashlib.sha256(text.encode()).digest(), options.data_names
    weights = _guessed.get(key)
    if weights is None:
        weights = guess_weights(Graph.from_mxnet(text), options.data_names)
        _guessed.put(key, weights, len(weights))
    return weights


def _explicit(given: dict[str, Any]) -> Options:
    """Options of an ``optimize_for`` for this backend, those of MXNet's own backend among them.

    Raises:
        OptionError: One is unknown or has a wrong value.
    """
    given.pop("dedup_subgraph", None)  # MXNet's, for backends that share subgraphs
    calibrates = bool(given.pop("calibration_iters", None))
    options = decision.options_for(given)
    assert options is not None
    if calibrates and options.precision == "int8" and not options.ranges:
        decision.warn_once(
            "calibration_iters has no effect here, and without ranges precision=int8 computes in "
            "float32; collect them with mxtrt.calibrate and give the file as option ranges"
        )
        options = options.replace(precision="fp32")
    return options


def _shapes_known(symbol: Symbol, shapes: Mapping[str, Any]) -> bool:
    """Whether these shapes of arguments and auxiliary states decide the others."""
    try:
        if all(name in shapes for name in symbol.list_inputs()):
            return True
        arguments = {name: shapes[name] for name in symbol.list_arguments() if name in shapes}
        inferred, _, _ = symbol.infer_shape_partial(**arguments)
    except Exception:
        return True  # shapes that contradict each other; the graph pass raises with MXNet's words
    unknown = 0 if not is_np_shape() else -1
    return all(
        shape is not None and (shape or is_np_shape()) and unknown not in shape
        for shape in inferred or ()
    )


def _arrays(shapes: Any, types: Any, ctx: Any) -> dict[str, Any]:
    """Arrays in place of inputs of which only shapes and types are known."""
    types = types or {}
    made = {}
    for name, shape in (shapes or {}).items():
        dtype = np.dtype(types.get(name, np.float32))
        made[name] = mx.nd.array(np.zeros(shape, dtype), ctx=ctx, dtype=dtype)
    return made


def _wrap_get_backend_symbol(original: Callable[..., Symbol]) -> Callable[..., Symbol]:
    @functools.wraps(original)
    def get_backend_symbol(self: Symbol, backend: str) -> Symbol:
        if backend != BACKEND:
            return original(self, backend)
        return own(self.__copy__(), None, None, _explicit({}))

    return get_backend_symbol


def _eligible(symbol: Symbol, group2ctx: Any, gradients: bool) -> Options | None:
    """Options of an executor's bind, or None when it is plain MXNet's."""
    owner = getattr(symbol, "_mxtrt", symbol)  # of a symbol under NumPy's semantics
    deferred = owner.deferred if isinstance(owner, EngineSymbol) else None
    options = deferred or decision.options_for()
    if options is None or (deferred is None and isinstance(symbol, EngineSymbol)):
        return None
    if gradients:
        decision.leave_alone("it is bound for gradients (grad_req is not 'null')", quiet=True)
    elif group2ctx:
        decision.leave_alone("it is spread over devices (group2ctx)")
    else:
        return options
    return None


def _wrap_bind(original: Callable[..., Executor]) -> Callable[..., Executor]:
    @functools.wraps(original)
    def bind(
        self: Symbol,
        ctx: Any,
        args: Any,
        args_grad: Any = None,
        grad_req: Any = "write",
        aux_states: Any = None,
        group2ctx: Any = None,
        shared_exec: Any = None,
    ) -> Executor:
        args, aux_states = complete(self, ctx, args, aux_states)
        executor = original(
            self, ctx, args, args_grad, grad_req, aux_states, group2ctx, shared_exec
        )
        gradients = bool(args_grad) and decision.wants_gradients(grad_req)
        options = _eligible(self, group2ctx, gradients)
        if options is not None:
            weights = decision.attempt(lambda: weights_of(self, options), options, ctx)
            if weights is not None:
                adopt(executor, self, options, weights, build=True)
        return executor

    return bind


def _wrap_simple_bind(original: Callable[..., Executor]) -> Callable[..., Executor]:
    filled = one_at_a_time(bind_filled)

    @functools.wraps(original)
    def simple_bind(
        self: Symbol,
        ctx: Any,
        grad_req: Any = "write",
        type_dict: Any = None,
        stype_dict: Any = None,
        group2ctx: Any = None,
        shared_arg_names: Any = None,
        shared_exec: Any = None,
        shared_buffer: Any = None,
        **kwargs: Any,
    ) -> Executor:
        make = functools.partial(
            original,
            self,
            ctx,
            grad_req,
            types_with(self, type_dict),
            stype_dict,
            group2ctx,
            shared_arg_names,
            shared_exec,
            shared_buffer,
            **kwargs,
        )
        options = _eligible(self, group2ctx, decision.wants_gradients(grad_req))
        if options is not None or isinstance(self, EngineSymbol):
            shares = shared_exec is not None
            executor = filled(make, ctx, shared_arg_names, shared_buffer, shares=shares)
        else:
            executor = make()
        write_into(executor, self)
        if options is not None:
            # The user gives the shapes of data; Module says which arguments are parameters.
            names = shared_arg_names or set(self.list_arguments()) - set(kwargs)
            weights = set(names) - set(options.data_names) | set(self.list_auxiliary_states())
            # BucketingModule binds every bucket to the memory of the first one.
            first = not isinstance(shared_exec, InferenceExecutor)
            adopt(executor, self, options, frozenset(weights), build=False, first=first)
        return executor

    return simple_bind


def installed() -> bool:
    """Whether the wrappers are in place."""
    return originals.optimize_for is not None


def install() -> None:
    """Put the wrappers in place."""
    originals.optimize_for = Symbol.optimize_for
    originals.bind = one_at_a_time(Symbol.bind)
    Symbol.optimize_for = _wrap_optimize_for(Symbol.optimize_for)
    Symbol.get_backend_symbol = _wrap_get_backend_symbol(one_at_a_time(Symbol.get_backend_symbol))
    Symbol.bind = _wrap_bind(originals.bind)
    Symbol.simple_bind = _wrap_simple_bind(one_at_a_time(Symbol.simple_bind))
