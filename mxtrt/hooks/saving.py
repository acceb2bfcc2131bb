"""Saving and loading what was partitioned: ``Symbol.save``, pickle, checkpoints and exports.

Where MXNet writes a symbol together with its weights, both are written as they were before the
graph was partitioned.  A symbol on its own gets a sidecar, see :mod:`mxtrt.saved.symbol_file`, and
is partitioned again where it is loaded; weights that no engine takes there are brought along, and
binds complete their arguments with them.
"""

from __future__ import annotations

import functools
import hashlib
import io
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import mxnet as mx
import numpy as np
import platformdirs
from mxnet import model
from mxnet.base import MXNetError
from mxnet.gluon import block as gluon_block
from mxnet.module import Module
from mxnet.symbol import Symbol
from mxnet.symbol import symbol as symbols
from mxnet.symbol.numpy import _symbol as numpy_symbols

from mxtrt.errors import GraphError
from mxtrt.hooks import decision
from mxtrt.hooks.brought import Brought, brought_by, complete
from mxtrt.hooks.partitioned import EngineSymbol, own
from mxtrt.hooks.symbol import give_engines
from mxtrt.node.abi import OPERATOR
from mxtrt.system.files import write_text
from mxtrt.version import __version__

if TYPE_CHECKING:
    from mxtrt.config import Options
    from mxtrt.engines import Weight
    from mxtrt.graph.symbol import Graph, TensorType
    from mxtrt.plan.plan import Plan
    from mxtrt.saved.symbol_file import Saved

__all__ = ["install", "restored"]

#: MXNet's own functions, set when the wrappers are installed.
originals = SimpleNamespace(load_json=None, tojson=None)

_LARGEST_FILLER = 1 << 30


# -- what there is to save -------------------------------------------------------------------


def _has_engines(symbol: Symbol) -> bool:
    """Whether a symbol has engine nodes, or had some where it was saved."""
    if isinstance(symbol, EngineSymbol):
        return symbol.deferred is None
    # No plan lives, so no symbol has an engine; the symbol need not be written out to see that.
    live_plans = getattr(sys.modules.get("mxtrt.plan.plan"), "live_plans", list)
    if not live_plans():
        return False
    try:
        return OPERATOR in originals.tojson(symbol)
    except UnicodeDecodeError:  # a name is not UTF-8: no such symbol has an engine
        return False


def _whole(symbol: Symbol) -> tuple[Symbol, dict[str, Any], Saved | None]:
    """The symbol that a partitioned one was made from, its weights, and how to partition it.

    The last is None where it has all the arguments that it was made with.

    Raises:
        GraphError: Its engines are not of this process, or are gone.
    """
    from mxtrt.graph import rewrite
    from mxtrt.graph.symbol import Graph

    graph = Graph.of(symbol)
    plans = _plans_of(graph)
    parts = {str(node.key): node for plan in plans for node in plan.nodes}
    origins = {str(node.key): plan.origin for plan in plans for node in plan.nodes}
    whole = originals.load_json(rewrite.undo(graph, parts, origins).to_json())
    brought = brought_by(symbol)
    arrays = {name: array for plan in plans for name, array in plan.arrays().items()}
    visible = set(symbol.list_inputs())
    variables = [node for plan in plans for node in plan.origin.nodes if node.is_variable]
    types = {node.name: node.types[0] for node in variables if node.types}
    if brought is not None:
        visible -= brought.arrays.keys()
        arrays = {**brought.arrays, **arrays}
        for name in brought.unread:
            arrays.pop(name, None)
        types = {**(brought.saved.inputs if brought.saved else {}), **types}
    names = whole.list_inputs()
    hidden = [name for name in names if name not in visible]
    weights = {name: arrays[name] for name in hidden if name in arrays}
    known = {n: types[n] for n in names if n in types and types[n].known and n not in weights}
    unread = tuple(name for name in hidden if name in known)
    saved = brought.saved if brought is not None else None
    if saved is not None and not plans:
        return whole, weights, replace(saved, inputs=known, unread=unread)
    if not hidden:
        return whole, weights, None
    left = saved.left if saved is not None else _left(graph)
    return whole, weights, _described(plans, known, unread, left)


def _left(graph: Graph) -> tuple[str, ...]:
    """Names of the nodes of a partitioned graph that MXNet runs and that read variables."""
    return tuple(
        node.name
        for node in graph.nodes
        if node.op != OPERATOR and any(graph.nodes[entry.node].is_variable for entry in node.inputs)
    )


def _plans_of(graph: Graph) -> list[Plan]:
    nodes = [node for node in graph.nodes if node.op == OPERATOR]
    if not nodes:
        return []
    from mxtrt.node import library
    from mxtrt.plan.plan import live_plans

    plans = {str(node.key): plan for plan in live_plans() for node in plan.nodes}
    for node in nodes:
        if node.attrs["engine"] not in plans or node.attrs.get("process") != library().token:
            raise GraphError(
                f"the symbol has engine {node.attrs['engine']}, which does not exist in this "
                "process; save it while the symbol that optimize_for returned exists"
            )
    return list(dict.fromkeys(plans[node.attrs["engine"]] for node in nodes))


def _described(
    plans: list[Plan], types: Mapping[str, Any], unread: tuple[str, ...], left: tuple[str, ...]
) -> Saved:
    from mxtrt.saved.symbol_file import Saved

    options = plans[0].options
    ranges = ""
    if options.precision == "int8":
        try:
            ranges = Path(options.ranges).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise GraphError(
                f"the ranges {options.ranges} of the symbol's engines cannot be read ({error}); "
                "put the file back to save the symbol"
            ) from None
    return Saved(
        symbol="",
        inputs=types,
        unread=unread,
        left=left,
        options=Saved.options_of(options),
        ranges=ranges,
        gpu=next(node.gpu for plan in plans for node in plan.nodes),
        made_by=f"mxtrt {__version__}, {plans[0].report.engine}",
    )


def _stored(whole: Symbol, weights: Mapping[str, Any]) -> dict[str, Callable[[], Weight]]:
    """Weights as they are written, by the names that a checkpoint gives them."""
    from mxtrt.convert.segment import WeightType
    from mxtrt.engines import Weight

    states = set(whole.list_auxiliary_states())
    return {
        ("aux:" if name in states else "arg:") + name: functools.partial(
            Weight.of, WeightType(name, tuple(array.shape), np.dtype(array.dtype)), array
        )
        for name, array in weights.items()
    }


# -- saving ----------------------------------------------------------------------------------


def _wrap_save(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def save(self: Symbol, fname: str, remove_amp_cast: bool = True) -> None:
        if not _has_engines(self) or not isinstance(fname, str):
            original(self, fname, remove_amp_cast)
            return
        from mxtrt.saved import symbol_file

        if "://" in fname:
            raise GraphError(
                f"a partitioned symbol is saved with its weights in a second file, and {fname} is "
                "an address; save it to a folder and copy both files"
            )
        whole, weights, facts = _whole(self)
        if facts is None:
            original(whole, fname, remove_amp_cast)
            return
        facts = replace(facts, symbol=whole.tojson(remove_amp_cast))
        symbol_file.save(Path(fname), facts, _stored(whole, weights))

    return save


def _wrap_reduce(original: Callable[[Symbol], Any]) -> Callable[[Symbol], Any]:
    @functools.wraps(original)
    def __reduce__(self: Symbol) -> Any:  # noqa: N807 - the name is Python's
        if self.handle is None or not _has_engines(self):
            return original(self)
        from mxtrt.saved.params_file import write_params

        whole, weights, facts = _whole(self)
        if facts is None:
            return Symbol, (None,), {"handle": whole.tojson(remove_amp_cast=False)}
        data = io.BytesIO()
        write_params(data.write, _stored(whole, weights))
        digest = hashlib.sha256(data.getbuffer()).hexdigest()
        facts = replace(facts, symbol=whole.tojson(remove_amp_cast=False), weights=digest)
        return restored, (facts.to_json(), data.getvalue())

    return __reduce__


def _wrap_checkpoint(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def save_checkpoint(
        prefix: str,
        epoch: int,
        symbol: Any,
        arg_params: Any,
        aux_params: Any,
        remove_amp_cast: bool = True,
    ) -> None:
        if symbol is not None and _has_engines(symbol):
            symbol, weights, _ = _whole(symbol)
            states = set(symbol.list_auxiliary_states())
            owned_args = {name: a for name, a in weights.items() if name not in states}
            owned_aux = {name: a for name, a in weights.items() if name in states}
            arg_params, aux_params = {**owned_args, **arg_params}, {**owned_aux, **aux_params}
        original(prefix, epoch, symbol, arg_params, aux_params, remove_amp_cast)

    return save_checkpoint


def _wrap_module_checkpoint(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def save_checkpoint(
        self: Module,
        prefix: str,
        epoch: int,
        save_optimizer_states: bool = False,
        remove_amp_cast: bool = True,
    ) -> None:
        if not _has_engines(self._symbol):
            original(self, prefix, epoch, save_optimizer_states, remove_amp_cast)
            return
        model.save_checkpoint(prefix, epoch, self._symbol, *self.get_params(), remove_amp_cast)
        if save_optimizer_states:
            self.save_optimizer_states(f"{prefix}-{epoch:04d}.states")

    return save_checkpoint


def _wrap_export(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def export(self: Any, path: str, epoch: int = 0, remove_amp_cast: bool = True) -> None:
        if not self._cached_graph or not _has_engines(self._cached_graph[1]):
            original(self, path, epoch, remove_amp_cast)
            return
        symbol = self._cached_graph[1]
        states = set(symbol.list_auxiliary_states())
        held = {p.name: p._reduce() for is_data, p in self._cached_op_args if not is_data}
        args = {name: array for name, array in held.items() if name not in states}
        aux = {name: array for name, array in held.items() if name in states}
        model.save_checkpoint(path, epoch, symbol, args, aux, remove_amp_cast)

    return export


# -- loading ---------------------------------------------------------------------------------


def restored(text: str, data: bytes) -> Symbol:
    """A partitioned symbol from what pickle kept of it.

    Args:
        text: The symbol it was made from, marked, as JSON.
        data: What its sidecar would hold.

    Raises:
        GraphError: They are damaged.
    """
    from mxtrt.saved import symbol_file

    facts = symbol_file.Saved.from_json(text)
    if facts is None:
        raise GraphError("the pickled symbol has no mark of mxtrt; pickle it again")
    try:
        arrays = symbol_file.unpack(data, facts)
    except GraphError as error:
        raise GraphError(f"the weights of the pickled symbol cannot be used: {error}") from None
    return _restore(facts, arrays)


def _restore(facts: Saved, values: Mapping[str, np.ndarray[Any, Any]]) -> EngineSymbol:
    """Partition a symbol again, with what engine this machine has."""
    symbol = originals.load_json(facts.symbol)
    names = symbol.list_inputs()
    if unknown := sorted({*values, *facts.unread}.difference(names)):
        raise GraphError(f"there is a weight {unknown[0]!r}, which the symbol does not have")
    there = facts.gpu is not None and facts.gpu < mx.context.num_gpus()
    ctx = mx.gpu(facts.gpu) if there else mx.cpu()
    arrays = {name: mx.nd.array(v, ctx=ctx, dtype=v.dtype) for name, v in values.items()}
    for name in facts.unread:
        arrays[name] = _filler(facts.inputs[name], ctx)
    brought = Brought(arrays, facts)
    done = _with_engines(symbol, facts, arrays, ctx)
    if done is None:
        return own(symbol, None, brought)
    done.brought = brought.of(done.list_inputs())
    return done


def _filler(tensor: TensorType, ctx: Any) -> Any:
    """An array that nothing depends on; copied, as MXNet may have no operator for this GPU.

    Raises:
        GraphError: It would be too large.
    """
    if tensor.nbytes > _LARGEST_FILLER:
        raise GraphError(f"an argument that it has is {tensor}")
    return mx.nd.array(np.ones(tensor.shape or (), tensor.dtype), ctx=ctx, dtype=tensor.dtype)


def _with_engines(
    symbol: Symbol, facts: Saved, arrays: Mapping[str, Any], ctx: Any
) -> EngineSymbol | None:
    options = decision.options_for(facts.options)
    assert options is not None
    if facts.ranges:
        try:
            options = options.replace(ranges=_file_of(facts.ranges, options))
        except OSError as error:
            decision.leave_alone(f"its ranges cannot be kept in cache_dir ({error})")
            return None
    states = symbol.list_auxiliary_states()
    known = {name: tensor for name, tensor in facts.inputs.items() if name not in arrays}
    args = {name: array for name, array in arrays.items() if name not in states}
    if not args:  # without any MXNet infers no shapes
        shown = [name for name in known if name not in states]
        args = {name: _filler(known[name], ctx) for name in shown[:1]}
    # MXNet wants either no states or all.
    aux = {
        name: arrays[name] if name in arrays else _filler(known[name], ctx)
        for name in states
        if name in arrays or name in known
    }
    inference = {
        "shape_dict": {name: known[name].shape for name in known if name not in states},
        "type_dict": {name: known[name].dtype for name in known if name not in states},
    }
    weights = arrays.keys() - set(facts.unread)
    refused = dict.fromkeys(facts.left, "MXNet ran it where the symbol was saved")
    done = give_engines(symbol, args, aux, ctx, options, weights, inference, refused, known.keys())
    return None if done is None else done[0]


def _file_of(ranges: str, options: Options) -> str:
    """A file with these ranges, named by its content."""
    folder = Path(options.cache_dir or platformdirs.user_cache_dir("mxtrt")) / "ranges"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{hashlib.sha256(ranges.encode()).hexdigest()}.json"
    write_text(path, ranges)
    return str(path)


def _read(fname: str, original: Callable[[str], Symbol]) -> Symbol:
    from mxtrt.saved import symbol_file

    text = symbol_file.marked(fname)
    if text is None:
        return _known(original, fname)
    try:
        facts = symbol_file.Saved.from_json(text)
        if facts is None:
            return _known(original, fname)
        return _restore(facts, symbol_file.load(Path(fname), facts))
    except GraphError as error:
        raise GraphError(f"the symbol file {fname} cannot be loaded: {error}") from None


def _known(original: Callable[[str], Symbol], given: str) -> Symbol:
    """What MXNet reads, but for a graph with engines in a process that never had one."""
    try:
        return original(given)
    except MXNetError as error:
        if f"Operator {OPERATOR} is not registered" not in str(error):
            raise
        raise MXNetError(
            "the symbol is JSON of a partitioned one, whose engines were in another process; "
            "partition the original symbol again, or keep the partitioned one with Symbol.save "
            "or pickle"
        ) from None


def _wrap_load(original: Callable[[str], Symbol], *, numpy: bool) -> Callable[[str], Symbol]:
    @functools.wraps(original)
    def load(fname: str) -> Symbol:
        symbol = _read(fname, original) if isinstance(fname, str) else original(fname)
        return symbol.as_np_ndarray() if numpy and isinstance(symbol, EngineSymbol) else symbol

    return load


def _wrap_load_json(original: Callable[[str], Symbol]) -> Callable[[str], Symbol]:
    return functools.wraps(original)(functools.partial(_known, original))


def _wrap_load_checkpoint(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def load_checkpoint(prefix: str, epoch: int) -> Any:
        symbol, args, aux = original(prefix, epoch)
        return symbol, *complete(symbol, mx.cpu(), args, aux)

    return load_checkpoint


def _wrap_symbol_block(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def __init__(self: Any, outputs: Any, inputs: Any, params: Any = None) -> None:  # noqa: N807
        original(self, outputs, inputs, params)
        brought = brought_by(self._cached_graph[1])
        if brought is not None:
            for name, array in brought.arrays.items():
                self.params[name]._load_init(array, mx.cpu())

    return __init__


def _wrap_imports(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def imports(
        symbol_file: str,
        input_names: Any,
        param_file: str | None = None,
        ctx: Any = None,
        allow_missing: bool = False,
        ignore_extra: bool = False,
    ) -> Any:
        from mxtrt.saved.symbol_file import marked

        # The symbol brings what engines held where it was saved.
        missing = allow_missing or marked(symbol_file) is not None
        return original(symbol_file, input_names, param_file, ctx, missing, ignore_extra)

    return imports


# -- hooks -----------------------------------------------------------------------------------


def _put_everywhere(module: Any, name: str, new: Callable[..., Any]) -> None:
    """Replace a function of MXNet wherever it has been imported to."""
    old = getattr(module, name)
    # Copies, as other threads import meanwhile.
    for path, other in sys.modules.copy().items():
        if path.split(".")[0] == "mxnet":
            for key, value in vars(other).copy().items():
                if value is old:
                    setattr(other, key, new)


def install() -> None:
    """Put the wrappers in place."""
    originals.load_json = symbols.load_json
    originals.tojson = Symbol.tojson
    Symbol.save = _wrap_save(Symbol.save)
    Symbol.__reduce__ = _wrap_reduce(Symbol.__reduce__)
    _put_everywhere(symbols, "load", _wrap_load(symbols.load, numpy=False))
    _put_everywhere(numpy_symbols, "load", _wrap_load(numpy_symbols.load, numpy=True))
    _put_everywhere(symbols, "load_json", _wrap_load_json(symbols.load_json))
    _put_everywhere(model, "save_checkpoint", _wrap_checkpoint(model.save_checkpoint))
    _put_everywhere(model, "load_checkpoint", _wrap_load_checkpoint(model.load_checkpoint))
    Module.save_checkpoint = _wrap_module_checkpoint(Module.save_checkpoint)
    block = gluon_block.HybridBlock
    block.export = _wrap_export(block.export)
    gluon_block.SymbolBlock.__init__ = _wrap_symbol_block(gluon_block.SymbolBlock.__init__)
    gluon_block.SymbolBlock.imports = staticmethod(_wrap_imports(gluon_block.SymbolBlock.imports))
