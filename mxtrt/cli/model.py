"""A model as a command gets it: symbol, parameters and data shapes that fit each other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mxtrt.errors import GraphError, OptionError
from mxtrt.graph.roles import guess_weights
from mxtrt.graph.symbol import Graph
from mxtrt.plain.loading import mxnet_reason
from mxtrt.saved.models import load_params, load_symbol, parse_shape

__all__ = ["Model", "load_model", "random_inputs", "random_params"]

Shape = tuple[int, ...]


@dataclass(slots=True)
class Model:
    """A symbol with what it takes to bind it.

    Attributes:
        symbol: The ``mxnet.symbol.Symbol``.
        data: Shapes of the data arguments.
        weights: Shapes of every other argument and auxiliary state, where they are known.
        dtypes: Dtypes of all arguments and auxiliary states.
        params: NDArrays of the weights by name; empty while there are none.
    """

    symbol: Any
    data: dict[str, Shape]
    weights: dict[str, Shape]
    dtypes: dict[str, np.dtype[Any]]
    params: dict[str, Any] = field(default_factory=dict)


def load_model(path: Path, params: Path | None, shapes: Iterable[str]) -> Model:
    """Read a model and see that its parts fit.

    Args:
        path: Symbol file.
        params: Parameter file, if there is one.
        shapes: Shapes as the command line gives them, ``name:1,3,224,224``.

    Raises:
        GraphError: A file cannot be used, a weight is missing or has a wrong shape, or a shape
            is missing, is for something that is no argument, or does not fit.
        OptionError: A shape is malformed or given twice.
    """
    given: dict[str, Shape] = {}
    for text in shapes:
        name, shape = parse_shape(text)
        if name in given:
            raise OptionError(f"option --shape is given twice for {name!r}; give it once")
        given[name] = shape
    symbol = load_symbol(path)
    arrays = {} if params is None else load_params(params)
    data = _data_shapes(symbol, given, arrays)
    known = _infer_shapes(symbol, data)
    model = Model(
        symbol,
        data,
        {name: shape for name, shape in known.items() if name not in data},
        _infer_dtypes(symbol, arrays),
    )
    if params is not None:
        model.params = _fitting(model, arrays, params)
        _tell_shapes(model)
    return model


def _data_shapes(
    symbol: Any, given: dict[str, Shape], arrays: Mapping[str, Any]
) -> dict[str, Shape]:
    arguments = symbol.list_arguments()
    weights = guess_weights(Graph.of(symbol)) | arrays.keys()
    data = [name for name in arguments if name in given or name not in weights]
    for name in given:
        if name not in arguments:
            raise GraphError(
                f"option --shape names {name!r}, which is no argument of the symbol; "
                f"its data arguments are: {', '.join(data) or 'none'}"
            )
    known = _infer_shapes(symbol, given)
    unknown = [name for name in data if 0 in known.get(name, (0,))]
    if unknown:
        missing = ", ".join(map(repr, unknown))
        raise GraphError(
            f"the shape of data argument {missing} is not known; give it, such as "
            f"--shape {unknown[0]}:1,3,224,224"
        )
    # MXNet names labels so; inference needs their shape only.
    labels = {name for name in data if name.endswith("label")}
    return {name: known[name] for name in data if name in given or name in labels}


def _infer_shapes(symbol: Any, given: Mapping[str, Shape]) -> dict[str, Shape]:
    from mxnet.base import MXNetError

    try:
        arguments, _, states = symbol.infer_shape_partial(**given)
    except MXNetError as error:
        told = " ".join(f"{name}:{','.join(map(str, dims))}" for name, dims in given.items())
        raise GraphError(
            f"the symbol does not accept --shape {told}: {mxnet_reason(error)}"
        ) from None
    names = [*symbol.list_arguments(), *symbol.list_auxiliary_states()]
    shapes = zip(names, [*(arguments or ()), *(states or ())], strict=False)
    return {name: tuple(shape) for name, shape in shapes if shape}


def _infer_dtypes(symbol: Any, arrays: Mapping[str, Any]) -> dict[str, np.dtype[Any]]:
    from mxnet.base import MXNetError

    names = [*symbol.list_arguments(), *symbol.list_auxiliary_states()]
    kinds: dict[str, Any] = {}
    try:
        given = {n: arrays[n].dtype for n in symbol.list_arguments() if n in arrays}
        arguments, _, states = symbol.infer_type_partial(**given)
        kinds = dict(zip(names, [*(arguments or ()), *(states or ())], strict=False))
    except MXNetError:
        pass  # a bind will fail too, and say more about it
    # MXNet writes a dtype that it does not know as None, and a bind takes float32 then.
    return {name: np.dtype(kinds.get(name) or np.float32) for name in names}


def _fitting(model: Model, arrays: Mapping[str, Any], path: Path) -> dict[str, Any]:
    names = [*model.symbol.list_arguments(), *model.symbol.list_auxiliary_states()]
    needed = [name for name in names if name not in model.data]
    missing = [name for name in needed if name not in arrays]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise GraphError(
            f"the params file {path} lacks the weight {missing[0]!r}{more}; "
            "give the params file that was saved with the symbol"
        )
    for name in needed:
        seen, expected = tuple(arrays[name].shape), model.weights.get(name, ())
        fits = len(seen) == len(expected) and all(
            want in (0, -1, have) for want, have in zip(expected, seen, strict=True)
        )
        if expected and not fits:
            raise GraphError(
                f"weight {name!r} in the params file {path} has shape {seen}, expected "
                f"{expected}; give the params file that was saved with the symbol, or "
                "another --shape"
            )
    return {name: arrays[name] for name in needed}


def _tell_shapes(model: Model) -> None:
    """Write the weights' shapes into the symbol where MXNet cannot infer them."""
    variables = model.symbol.get_internals()
    for name, array in model.params.items():
        if 0 in model.weights.get(name, (0,)):
            model.weights[name] = tuple(array.shape)
            variables[name]._set_attr(__shape__=str(model.weights[name]))


def random_params(model: Model, seed: int = 0) -> dict[str, Any]:
    """Random weights for a model without a parameter file (He initialisation, MSRA).

    Raises:
        GraphError: The shape of a weight cannot be inferred.
    """
    import mxnet as mx

    rng = np.random.default_rng(seed)
    params: dict[str, Any] = {}
    for name in [*model.symbol.list_arguments(), *model.symbol.list_auxiliary_states()]:
        if name in model.data:
            continue
        shape = model.weights.get(name, ())
        if not shape or min(shape) < 1:
            raise GraphError(
                f"the shape of weight {name!r} cannot be inferred; give its values with --params"
            )
        if name.endswith(("gamma", "var")):
            values = np.ones(shape)
        elif name.endswith(("bias", "beta", "mean")):
            values = np.zeros(shape)
        else:
            inputs = int(np.prod(shape[1:])) if len(shape) > 1 else shape[0]
            values = rng.standard_normal(shape, dtype=np.float32) * (2 / inputs) ** 0.5
        params[name] = mx.nd.array(values, dtype=model.dtypes[name])
    return params


def random_inputs(model: Model, seed: int = 0) -> dict[str, Any]:
    """Random data between 0 and 1 for every data argument."""
    import mxnet as mx

    rng = np.random.default_rng(seed)
    return {
        name: mx.nd.array(rng.random(shape), dtype=model.dtypes[name])
        for name, shape in model.data.items()
    }
