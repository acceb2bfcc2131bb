"""Arrays of a bind on a GPU that MXNet could not fill.

``simple_bind``, and with it ``Module``, fills its arrays with zeros by a kernel that MXNet's wheels
do not have for every GPU.  There each array keeps the failure, and what is copied to it later is
lost.  Copies need no kernel.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from mxnet.base import MXNetError

__all__ = ["fill"]

# CUDA's words for a kernel that was not compiled for the GPU.
_NO_CODE = "no kernel image is available"


def fill(executor: Any, shared: Collection[str] | None = None) -> None:
    """Fill with zeros what MXNet has no code to fill on a GPU.

    Args:
        executor: As ``simple_bind`` made it.
        shared: Names of arguments that it has of another executor, as it has all auxiliary states
            then: MXNet does not fill these.  None without another one.

    Raises:
        MXNetError: An array failed for another reason.
    """
    if executor._ctx.device_type != "gpu":
        return
    arrays = {**executor.arg_dict, **(executor.aux_dict if shared is None else {})}
    for name, array in arrays.items():
        if array.stype != "default" or name in (shared or ()):
            continue
        try:
            array.wait_to_read()
        except MXNetError as error:
            if _NO_CODE not in str(error):
                raise
            array._sync_copyfrom(np.zeros(array.shape, array.dtype))
