"""Writes of training that MXNet does not count.

A block that is hybridized with ``static_alloc`` and ``static_shape`` runs operators that its
``CachedOp`` has pushed together, which name the arrays that they compute to and not the auxiliary
states that they write to (``CreateEngineOpSeg`` in ``src/imperative/imperative_utils.h``): running
means change, at a forward or at its backward, and neither their number of writes nor who waits for
them tells of it.  What is counted here is a write behind each of these.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any

from mxnet import autograd
from mxnet.ndarray import NDArray

from mxtrt.node import library

__all__ = ["called", "install"]

#: The states of static blocks that were called for training, whose backward may be yet to come.
_trained: weakref.WeakKeyDictionary[Any, list[Any]] = weakref.WeakKeyDictionary()


def called(block: Any) -> None:
    """Take note of a call for training.

    Args:
        block: A hybridized block.
    """
    parameters = _trained.get(block)
    if parameters is None:
        if not dict(block._flags).get("static_alloc"):
            return
        names = set(block._cached_graph[1].list_auxiliary_states())
        parameters = [p for is_data, p in block._cached_op_args if not is_data and p.name in names]
        _trained[block] = parameters
    _count_writes(parameters)


def _count_writes(parameters: list[Any]) -> None:
    arrays = [array for parameter in parameters for array in parameter.list_data()]
    if arrays and library.made:  # otherwise nobody looks at them
        library().count_write(arrays)


def _with_states(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def backward(*args: Any, **kwargs: Any) -> Any:
        made = original(*args, **kwargs)
        for parameters in list(_trained.values()):
            _count_writes(parameters)
        return made

    return backward


def install() -> None:
    """Put the wrappers in place."""
    for name in ("backward", "grad"):
        setattr(autograd, name, _with_states(getattr(autograd, name)))
    NDArray.backward = _with_states(NDArray.backward)
