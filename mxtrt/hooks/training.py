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
from mxtrt.system.threads import lock

__all__ = ["called", "install"]

#: The states of static blocks that were called for training, whose backward may be yet to come.
_trained: weakref.WeakKeyDictionary[Any, list[Any]] = weakref.WeakKeyDictionary()
_lock = lock()


def called(block: Any) -> None:
    """Take note of a call for training.

    Args:
        block: A hybridized block.
    """
    if not dict(block._flags).get("static_alloc"):
        return
    with _lock:
        parameters = _trained.get(block)
        if parameters is None:
            names = set(block._cached_graph[1].list_auxiliary_states())
            args = block._cached_op_args
            parameters = [p for is_data, p in args if not is_data and p.name in names]
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
        with _lock:
            of_all = list(_trained.values())
        for parameters in of_all:
            _count_writes(parameters)
        return made

    return backward


def install() -> None:
    """Put the wrappers in place."""
    for name in ("backward", "grad"):
        setattr(autograd, name, _with_states(getattr(autograd, name)))
    NDArray.backward = _with_states(NDArray.backward)
