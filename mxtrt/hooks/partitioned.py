"""Partitioned symbols: running the graph pass, and who owns the engines."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from mxnet.symbol import Symbol

from mxtrt.config import Options
from mxtrt.errors import EngineError, RefusedNodesError
from mxtrt.hooks import seeding, waiting
from mxtrt.hooks.brought import Brought, brought_by
from mxtrt.node.abi import PASS_NAME
from mxtrt.observe.counters import count
from mxtrt.observe.report import publish
from mxtrt.system.threads import rlock

if TYPE_CHECKING:
    from mxtrt.engines import Kind
    from mxtrt.plan.plan import Plan

__all__ = [
    "BACKEND",
    "EngineSymbol",
    "lock_with",
    "one_at_a_time",
    "own",
    "partition_symbol",
    "until_accepted",
]

_log = logging.getLogger("mxtrt")
_T = TypeVar("_T")

#: Name of the backend in ``optimize_for`` and ``hybridize``.
BACKEND = PASS_NAME


class _Subgraphs:
    # Reentrant: a custom operator may bind a symbol while it is bound itself.
    lock: Any = rlock()


def lock_with(lock: Any) -> None:
    """Have binds take another lock, which a program takes for binds that are not Python's."""
    _Subgraphs.lock = lock


def one_at_a_time(function: Callable[..., _T]) -> Callable[..., _T]:
    """MXNet's function, which other threads do not enter meanwhile.

    For what has MXNet look for the subgraphs of one of its backends, as each bind on a CPU does for
    oneDNN: it keeps what it knows of the graph at hand in objects that all threads share
    (``BuildSubgraph`` in MXNet's src/executor/graph_executor.cc), and two binds at once crash now
    and then.
    """

    @functools.wraps(function)
    def alone(*args: Any, **kwargs: Any) -> _T:
        with _Subgraphs.lock:
            return function(*args, **kwargs)

    return alone


class EngineSymbol(Symbol):  # type: ignore[misc]
    """A partitioned symbol; its engines live as long as it, its copies and its executors.

    Attributes:
        plan: Its engines; None for a symbol that has none yet, or was saved with engines and has
            none here.
        brought: Values of arguments that the caller of a bind need not give.
        deferred: Options with which it gets engines where it is bound, as the shapes of its data
            were not known before; None otherwise.
    """

    __slots__ = ("brought", "deferred", "plan")

    plan: Any
    brought: Brought | None
    deferred: Options | None

    def _likewise(self, symbol: Symbol) -> EngineSymbol:
        return own(symbol, self.plan, self.brought, self.deferred)

    def __copy__(self) -> EngineSymbol:
        return self.__deepcopy__(None)

    def __deepcopy__(self, memo: Any) -> EngineSymbol:
        return self._likewise(Symbol.__deepcopy__(self, memo))

    def __getitem__(self, index: Any) -> EngineSymbol:
        return self._likewise(Symbol.__getitem__(self, index))

    def get_internals(self) -> EngineSymbol:
        return self._likewise(Symbol.get_internals(self))

    def get_children(self) -> EngineSymbol | None:
        children = Symbol.get_children(self)
        return None if children is None else self._likewise(children)

    def as_np_ndarray(self) -> Any:
        symbol = Symbol.as_np_ndarray(self)
        symbol._mxtrt = self  # keeps the plan alive, as the NumPy symbol is a plain MXNet object
        return symbol


def own(
    symbol: Symbol,
    plan: Plan | None,
    brought: Brought | None = None,
    deferred: Options | None = None,
) -> EngineSymbol:
    """Turn MXNet's symbol into one that owns a plan; the argument is used up."""
    owner = EngineSymbol(symbol.handle)
    symbol.handle = None
    owner.plan = plan
    owner.brought = brought
    owner.deferred = deferred
    return owner


def partition_symbol(
    symbol: Symbol,
    args: dict[str, Any] | None,
    aux: dict[str, Any] | None,
    ctx: Any,
    options: Options,
    weights: frozenset[str],
    refused: Mapping[str, str] | None = None,
    keep: Collection[str] = (),
    *,
    kind: Kind | None = None,
    **inference: Any,
) -> EngineSymbol:
    """Run the graph pass; engines are described but not built.

    Args:
        symbol: The symbol.
        args: Arguments by name; MXNet removes the weights that left the symbol.
        aux: Auxiliary states by name, likewise.
        ctx: Context of the bind.
        options: Options of the bind.
        weights: Names of the arguments and auxiliary states that are weights.
        refused: Reasons why further nodes stay in MXNet, by name.
        keep: Variables that stay arguments though nothing reads them any more.
        kind: What engines the segments are for; None for the one of the options.
        inference: ``shape_dict``, ``type_dict``, ... as ``optimize_for`` takes them.

    Raises:
        EngineError: An array is sparse, or a pending write to it failed.
    """
    from mxtrt.node import library
    from mxtrt.plan.graph_pass import Request, run_pass
    from mxtrt.trial import check
    from mxtrt.weights.paging import gpu_of

    # MXNet takes pointers of these without waiting, and allocates an array that an operator is
    # about to allocate: the operator's result would then be lost.
    for array in (*(args or {}).values(), *(aux or {}).values()):
        if array.stype != "default":
            raise EngineError("it has sparse parameters or inputs")
        if not library().is_readable(array):
            raise EngineError("a pending write to one of its parameters or inputs failed")
    gpu = None if ctx is None else gpu_of(ctx)
    if gpu is not None:
        seeding.install()
    request = Request(options, weights, gpu, refused or {}, keep, kind, check)
    rewritten, plan = run_pass(symbol, request, args, aux, ctx, inference)
    publish(plan.report)
    if any(not node.engine.on_cpu for node in plan.nodes):
        waiting.install()
    if plan.nodes:
        count("binds")
        count("segments", len(plan.nodes))
    # Engine nodes that the symbol had before stay in it.
    plan.before = symbol.plan if isinstance(symbol, EngineSymbol) else None
    brought = brought_by(symbol)
    return own(rewritten, plan, brought.of(rewritten.list_inputs()) if brought else None)


def until_accepted(
    body: Callable[[Mapping[str, str]], _T], refused: Mapping[str, str] | None = None
) -> _T:
    """Partition and build around the nodes that the engine refuses.

    Args:
        body: Partitions and builds; is given the reasons of the nodes refused so far, by name.
        refused: What is refused already.

    Raises:
        RefusedNodesError: The engine refuses nodes that it was not given.
    """
    known = dict(refused or {})
    while True:
        try:
            return body(known)
        except RefusedNodesError as error:
            if known.keys() >= error.reasons.keys():
                raise
            _log.info("the engine refused nodes, which stay in MXNet: %s", error)
            known.update(error.reasons)
