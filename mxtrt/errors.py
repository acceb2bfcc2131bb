"""Every exception and warning that mxtrt raises on purpose.

Messages are one sentence: what was seen, what was expected, how to fix it.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = [
    "EngineError",
    "GraphError",
    "MxtrtError",
    "MxtrtWarning",
    "NodeError",
    "OptionError",
    "RefusedNodesError",
    "Unsupported",
]


class MxtrtError(Exception):
    """Base of every error that mxtrt raises on purpose."""


class OptionError(MxtrtError, ValueError):
    """An option or environment variable has a name or value that mxtrt does not know."""


class GraphError(MxtrtError, ValueError):
    """A symbol, its parameters or its shapes cannot be used."""


class EngineError(MxtrtError, RuntimeError):
    """An engine is missing, or failed to build or to run."""


class RefusedNodesError(EngineError):
    """An engine refused nodes of a segment.

    Attributes:
        reasons: The engine's own words, by name of the MXNet node.
    """

    def __init__(self, reasons: Mapping[str, str]) -> None:
        super().__init__("; ".join(f"{name}: {why}" for name, why in reasons.items()))
        self.reasons = dict(reasons)

    def __reduce__(self) -> tuple[type[RefusedNodesError], tuple[dict[str, str]]]:
        return type(self), (self.reasons,)


class NodeError(MxtrtError, RuntimeError):
    """The compiled MXNet extension is missing or does not fit this MXNet."""


class Unsupported(Exception):  # noqa: N818 - an answer, not an error
    """Raised by a converter: this node stays in MXNet, and the message says why."""


class MxtrtWarning(UserWarning):
    """mxtrt left a graph, or a part of it, to plain MXNet; the message says why."""
