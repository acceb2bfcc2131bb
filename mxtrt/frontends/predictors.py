"""Predictors: the model that MXNet's predict API gets, with engines in it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import mxnet as mx
import numpy as np
from mxnet.base import _LIB, MXNetError, check_call

from mxtrt.frontends.optimized import options_of
from mxtrt.hooks.symbol import give_engines

__all__ = ["ClientModel", "model_with_engines", "outputs_of"]


class ClientModel:
    """A model with engines, of which MXNet makes predictors.

    Args:
        symbol: The caller's model.
        partitioned: The same with engines.
        left: Its arguments and states that the engines do not hold, named as in a file.

    Attributes:
        json: The model with engines.
        parameters: A file of the parameters that it has left.
    """

    def __init__(self, symbol: Any, partitioned: Any, left: Mapping[str, Any]) -> None:
        self._symbol = symbol
        self._partitioned = partitioned
        self.json: str = partitioned.tojson()
        # MXNet reads no file of nothing.
        self.parameters = _saved(left or {"arg:_mxtrt_none": mx.nd.zeros((1,))})

    def write(self, name: str, values: int, size: int) -> bool:
        """Give an argument that the engines hold other values, and build them again.

        Args:
            name: Of the argument.
            values: Address of its values.
            size: How many there are.

        Returns:
            Whether the engines hold such an argument.

        Raises:
            MXNetError: It has another size.
            EngineError: The engines were not built.
        """
        plan = self._partitioned.plan
        arrays = plan.arrays()
        if name not in arrays or name not in self._symbol.list_arguments():
            return False
        given = ctypes.c_void_p(values), ctypes.c_size_t(size)
        check_call(_LIB.MXNDArraySyncCopyFromCPU(arrays[name].handle, *given))
        if name in plan.weights:
            plan.build(arrays)
        return True

    def refuse(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Say why the caller's model cannot have inputs of these shapes.

        Args:
            shapes: Of its inputs.

        Raises:
            MXNetError: The reason; nothing is raised where there is none.
        """
        arguments = self._symbol.list_arguments()
        held = {n: a.shape for n, a in self._partitioned.plan.arrays().items() if n in arguments}
        given = {name: shape for name, shape in shapes.items() if name in arguments}
        if not _inferred(self._symbol, {**held, **given}):
            names = ", ".join(shapes)
            raise MXNetError(
                f"the shapes of {names} do not decide those of the model's other inputs"
            )


def model_with_engines(
    symbol: Any,
    parameters: Mapping[str, Any],
    context: Any,
    shapes: Mapping[str, tuple[int, ...]],
    types: Mapping[str, Any],
) -> ClientModel | None:
    """A model with engines; None where it stays MXNet's.

    Args:
        symbol: The model.
        parameters: Its parameters, named as in a file of parameters.
        context: Where it runs.
        shapes: Of its inputs.
        types: dtypes of inputs, where they are not float32.

    Raises:
        MXNetError: MXNet does not accept the shapes.
    """
    options = options_of(symbol)
    if options is None:
        return None
    arguments, states = set(symbol.list_arguments()), set(symbol.list_auxiliary_states())
    args = _placed(parameters, "arg:", arguments - shapes.keys(), context)
    aux = _placed(parameters, "aux:", states, context)
    weights = frozenset([*args, *aux])
    known = {n: array.shape for n, array in args.items()}
    # Raises where MXNet makes no predictor either.
    inferred = _inferred(symbol, {**known, **{n: s for n, s in shapes.items() if n in arguments}})
    for name, shape in zip(symbol.list_arguments(), inferred, strict=False):
        if name not in args:  # the inputs, and labels, which MXNet leaves as they are
            dtype = types.get(name, "float32")  # copied: a fill needs code for the GPU
            args[name] = mx.nd.array(np.zeros(shape, dtype), context, dtype)
    done = give_engines(
        symbol, args, aux, context, options, weights, {}, keep=[n for n in shapes if n in arguments]
    )
    if done is None or not done[0].plan.nodes:
        return None
    partitioned, kept_args, kept_aux = done
    kept = {f"arg:{name}": a for name, a in (kept_args or {}).items() if name in weights}
    kept.update((f"aux:{name}", a) for name, a in (kept_aux or {}).items())
    return ClientModel(symbol, partitioned, kept)


def _inferred(symbol: Any, shapes: Mapping[str, tuple[int, ...]]) -> Sequence[tuple[int, ...]]:
    """Shapes of the arguments; empty where these do not decide them."""
    shapes_of_all, _, _ = symbol._infer_shape_impl(False, **shapes)  # `infer_shape` prints
    return shapes_of_all or ()


def _placed(
    parameters: Mapping[str, Any], prefix: str, names: set[str], context: Any
) -> dict[str, Any]:
    given = {key[len(prefix) :]: array for key, array in parameters.items() if key[:4] == prefix}
    return {name: array.as_in_context(context) for name, array in given.items() if name in names}


def _saved(arrays: Mapping[str, Any]) -> bytes:
    """A file of parameters."""
    with _file() as path:
        mx.nd.save(path, dict(arrays))
        with open(path, "rb") as file:
            return file.read()


@contextlib.contextmanager
def _file() -> Iterator[str]:
    """A path to write to: a file in memory, where the system has them."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("mxtrt")
        path = f"/proc/self/fd/{descriptor}"
    else:
        descriptor, path = tempfile.mkstemp(suffix=".params")
    try:
        yield path
    finally:
        os.close(descriptor)
        if not path.startswith("/proc"):
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
