"""Whether a bind gets engines, and what is said when it does not."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from mxnet.base import MXNetError

from mxtrt import config
from mxtrt.config import Options
from mxtrt.errors import MxtrtError, MxtrtWarning, OptionError
from mxtrt.node.forks import in_forked_child
from mxtrt.observe.counters import count
from mxtrt.observe.report import Report, publish
from mxtrt.plain.loading import mxnet_reason
from mxtrt.system.threads import loading

__all__ = [
    "attempt",
    "leave_alone",
    "options_for",
    "wants_gradients",
    "warn_once",
]

_log = logging.getLogger("mxtrt")
_warned: set[str] = set()
_T = TypeVar("_T")


def options_for(explicit: Mapping[str, Any] | None = None) -> Options | None:
    """Options of this bind, or None when the integration is off.

    Args:
        explicit: Options given with the call; then the integration is on whatever the
            environment says, and a mistake is an error.  Without them a mistake in the
            environment is a warning, and the bind is plain MXNet's.

    Raises:
        OptionError: An explicit option is unknown or has a wrong value.
    """
    try:
        if explicit is not None:
            return config.current().replace(**{**explicit, "enabled": True})
        options = config.current()
    except OptionError as error:
        if explicit is not None:
            raise
        leave_alone(str(error))
        return None
    return options if options.enabled else None


def leave_alone(reason: str, *, quiet: bool = False) -> None:
    """Report that a bind is plain MXNet's; a reason is warned of once per process.

    Args:
        reason: One sentence.
        quiet: Do not warn: this is as it should be (a bind for training).
    """
    publish(Report(engine="none", reason=reason))
    if quiet:
        _log.debug("left to MXNet: %s", reason)
        return
    count("refusals")
    warn_once(f"the graph runs as plain MXNet: {reason}")


def warn_once(message: str) -> None:
    """Warn of something, once per process.

    Args:
        message: One sentence.
    """
    if message not in _warned:
        _warned.add(message)
        warnings.warn(message, MxtrtWarning, stacklevel=5)


def attempt(body: Callable[[], _T], options: Options, context: Any = None) -> _T | None:
    """Run the engine side of a bind; whatever fails leaves the graph to MXNet, with a warning.

    Args:
        body: The engine side.
        options: Options of the bind.
        context: The MXNet context of the bind, if it is known.
    """
    if in_forked_child():
        leave_alone(
            "this process was forked from one that had engines, whose threads do not survive a fork"
        )
        return None
    try:
        with loading:  # ONNX: not before the first bind that wants an engine
            from mxtrt.plan import graph_pass

        graph_pass.prepare(options, context)
        return body()
    except Exception as error:
        _log.debug("bind failed", exc_info=True)
        leave_alone(_reason(error))
        return None


def _reason(error: Exception) -> str:
    if isinstance(error, MxtrtError):
        return str(error)
    if isinstance(error, MXNetError):
        return mxnet_reason(error)
    return f"{type(error).__name__}: {error}"


def wants_gradients(grad_req: Any) -> bool:
    """Whether ``grad_req`` (a string, list or dict, as MXNet takes it) asks for any gradient."""
    if grad_req is None:
        return False
    if isinstance(grad_req, str):
        return grad_req != "null"
    values = grad_req.values() if isinstance(grad_req, Mapping) else grad_req
    return any(value != "null" for value in values)
