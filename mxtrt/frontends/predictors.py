"""Predictors: the model that MXNet's predict API gets, with engines in it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import mxnet as mx

from mxtrt.frontends.optimized import options_of
from mxtrt.hooks.symbol import give_engines

__all__ = ["model_with_engines", "outputs_of"]


def model_with_engines(
    symbol: Any,
    parameters: Mapping[str, Any],
    context: Any,
    shapes: Mapping[str, tuple[int, ...]],
    types: Mapping[str, Any],
) -> tuple[Any, bytes] | None:
    """A model with engines, and the parameters that it has left; None where it stays MXNet's.

    Args:
        symbol: The model.
        parameters: Its parameters, named as in a file of parameters.
        context: Where it runs.
        shapes: Of its inputs.
        types: dtypes of inputs, where they are not float32.
    """
    options = options_of(symbol)
    if options is None:
        return None
    arguments, states = set(symbol.list_arguments()), set(symbol.list_auxiliary_states())
    args = _placed(parameters, "arg:", arguments - shapes.keys(), context)
    aux = _placed(parameters, "aux:", states, context)
    weights = frozenset([*args, *aux])
    inferred, _, _ = symbol.infer_shape(**{n: s for n, s in shapes.items() if n in arguments})
    for name, shape in zip(symbol.list_arguments(), inferred or (), strict=False):
        if name not in args:  # the inputs, and labels, which MXNet leaves as they are
            args[name] = mx.nd.zeros(shape, context, types.get(name, "float32"))
    done = give_engines(
        symbol, args, aux, context, options, weights, {}, keep=[n for n in shapes if n in arguments]
    )
    if done is None or not done[0].plan.nodes:
        return None
    partitioned, kept_args, kept_aux = done
    kept = {f"arg:{name}": a for name, a in (kept_args or {}).items() if name in weights}
    kept.update((f"aux:{name}", a) for name, a in (kept_aux or {}).items())
    return partitioned, _saved(kept or {"arg:_mxtrt_none": mx.nd.zeros((1,))})


def _placed(
    parameters: Mapping[str, Any], prefix: str, names: set[str], context: Any
) -> dict[str, Any]:
    given = {key[len(prefix) :]: array for key, array in parameters.items() if key[:4] == prefix}
    return {name: array.as_in_context(context) for name, array in given.items() if name in names}


def _saved(arrays: Mapping[str, Any]) -> bytes:
    """A file of parameters."""
    descriptor, path = tempfile.mkstemp(suffix=".params")
    os.close(descriptor)
    try:
        mx.nd.save(path, dict(arrays))
        with open(path, "rb") as file:
            return file.read()
    finally:
        os.unlink(path)


def outputs_of(symbol: Any, names: Sequence[str]) -> Any:
    """The model with these outputs, each named with or without ``_output``, as MXNet takes them.

    Raises:
        ValueError: It has no such output.
    """
    internals = symbol.get_internals()
    known = internals.list_outputs()
    found = []
    for name in names:
        places = [known.index(n) for n in (name, f"{name}_output") if n in known]
        if not places:
            raise ValueError(f"the model has no output {name}")
        found.append(internals[places[0]])
    return mx.sym.Group(found)
