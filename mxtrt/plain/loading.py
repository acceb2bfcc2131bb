"""Loading MXNet, its messages, and its names of operators."""

from __future__ import annotations

import ctypes
import re
import warnings
from types import ModuleType

from mxtrt.errors import MxtrtWarning, NodeError

__all__ = ["import_mxnet", "mxnet_reason", "own_name"]

_INSTALL = "install it with: pip install mxnet==1.9.1"

# What surrounds the meaningful part of MXNet's messages.
_NOISE = re.compile(r"^\w*(Error|Reader): |\[\d\d:\d\d:\d\d\] \S+:\d+: |Check failed: .*?: ")


def import_mxnet() -> ModuleType:
    """MXNet, as this package needs it.

    Raises:
        NodeError: MXNet is missing, does not load, or is another than 1.9.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MxtrtWarning)  # said below, as an error
            warnings.simplefilter("ignore", DeprecationWarning)
            import mxnet
    except ModuleNotFoundError as error:
        if error.name != "mxnet":
            raise NodeError(f"MXNet does not load, it needs the package {error.name!r}") from error
        raise NodeError(f"MXNet is not installed; {_INSTALL}") from error
    except (ImportError, OSError, AttributeError) as error:
        raise NodeError(f"MXNet does not load: {error}") from error
    module: ModuleType = mxnet
    version = str(getattr(module, "__version__", "unknown"))
    if not version.startswith("1.9."):
        raise NodeError(
            f"MXNet {version} is installed, and mxtrt serves MXNet 1.9 only; {_INSTALL}"
        )
    return module


_ERROR_NAMES = re.compile(r"^(?:\w+Error: )+")


def mxnet_reason(error: BaseException) -> str:
    """The meaningful line of MXNet's message, without C++ stack traces and source lines."""
    lines = [line.strip() for line in str(error).splitlines()]
    for place, line in enumerate(lines):  # what an extension raised says more than what MXNet adds
        if line.startswith("[0] ") and "Extension Traceback:" in lines[:place]:
            lines = [_ERROR_NAMES.sub("", line[4:]), *lines[place + 1 :]]
            break
    telling = [x for x in lines if x and not x.startswith(("Traceback (", 'File "', "[bt]"))]
    if not telling:
        return type(error).__name__
    short = _NOISE.sub("", telling[0]).strip()
    return (short or telling[0]).rstrip(".: ")


def own_name(operator: str) -> str:
    """The name under which MXNet's graphs know an operator that has several (``_Plus``).

    A name that is no operator's is returned as it is.
    """
    from mxnet.base import _LIB

    handle, name = ctypes.c_void_p(), ctypes.c_char_p()
    found = _LIB.NNGetOpHandle(operator.encode(), ctypes.byref(handle)) == 0
    if not found or _LIB.MXSymbolGetAtomicSymbolName(handle, ctypes.byref(name)):
        return operator
    return (name.value or operator.encode()).decode()
