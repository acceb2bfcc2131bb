"""Arrays of a bind on a GPU that MXNet could not fill.

``simple_bind``, and with it ``Module``, fills its arrays with zeros by a kernel that MXNet's wheels
do not have for every GPU.  There each array keeps the failure, and what is copied to it later is
lost.  Copies need no kernel.

Fills that fail at the same time crash MXNet now and then: the arrays of a bind are filled in one
operation, which fails once; see ``mxtrt/node/generators.cc``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np
from mxnet.base import MXNetError

from mxtrt.errors import NodeError
from mxtrt.hooks import decision

__all__ = ["bind_filled"]

# CUDA's words for a kernel that was not compiled for the GPU.
_NO_CODE = "no kernel image is available"


def bind_filled(
    bind: Callable[[], Any],
    context: Any,
    parameters: Collection[str] | None = None,
    buffer: Any = None,
    *,
    shares: bool = False,
) -> Any:
    """Have ``simple_bind`` make an executor, and fill what MXNet has no code to fill on a GPU.

    Args:
        bind: Makes the executor.
        context: Its context.
        parameters: Names of the arguments that are parameters, as ``simple_bind`` takes them.
        buffer: Arrays by name whose memory the other arguments take where they fit in: MXNet does
            not fill these.
        shares: Whether the parameters and all auxiliary states are those of another executor:
            MXNet does not fill these either.

    Raises:
        MXNetError: An array failed for another reason, or the bind did.
    """
    if getattr(context, "device_type", None) != "gpu":
        return bind()
    # As they are before the bind, which puts its own into the buffer.
    sizes = {n: a.size for n, a in buffer.items()} if isinstance(buffer, dict) else {}
    with _one_failure(context.device_id):
        executor = bind()
        named = set(parameters or ())
        arrays = {**executor.arg_dict, **({} if shares else executor.aux_dict)}
        dense = {
            name: array
            for name, array in arrays.items()
            if array.stype == "default" and not (shares and name in named)
        }
        reused = {n for n, a in dense.items() if n not in named and a.size <= sizes.get(n, -1)}
        failed = {name for name, array in dense.items() if _has_failed(array)}
    if failed - reused:  # of one operation for all of them, whose failure MXNet tells once
        failed |= dense.keys() - reused
    for name in failed:
        array = dense[name]
        array._sync_copyfrom(np.zeros(array.shape, array.dtype))
    return executor


@contextlib.contextmanager
def _one_failure(ordinal: int) -> Iterator[None]:
    """A block in which what this thread has MXNet do on a GPU fails as one operation.

    The block waits for what it had MXNet do.
    """
    from mxtrt.node import library

    try:
        node = library()
    except NodeError:  # engines come next, and say it
        yield
        return
    try:
        node.checked(node.lib.mxtrt_block_begin(ordinal))
    except NodeError as error:  # an operator's that had a random generator, which MXNet tells once
        decision.warn_once(f"MXNet had failed before this bind: {error}")
        yield
        return
    try:
        yield
    finally:
        node.lib.mxtrt_block_end()


def _has_failed(array: Any) -> bool:
    """Whether MXNet has no code to fill an array; waits for it.

    Raises:
        MXNetError: It failed for another reason.
    """
    try:
        array.wait_to_read()
    except MXNetError as error:
        if _NO_CODE not in str(error):
            raise
        return True
    return False
