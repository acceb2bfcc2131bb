"""``MXOptimizeForBackend`` for this backend: a symbol that says which options its binds have.

The engines come where it is bound, so that the arguments stay the caller's and weights are followed
as those of every bind.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mxtrt.config import Options
from mxtrt.hooks import decision

__all__ = ["asked_for", "optimized", "options_of"]

_ATTRIBUTE = "__mxtrt_options__"  # of the nodes that the outputs are of; MXNet saves it


def optimized(symbol: Any, options: Mapping[str, str]) -> Any:
    """A copy of a symbol whose binds have these options.

    Raises:
        OptionError: An option is unknown or has a wrong value.
    """
    decision.options_for(options)
    made = symbol.__copy__()
    if options:
        for output in made:
            output._set_attr(**{_ATTRIBUTE: json.dumps(dict(options))})
    return made


def asked_for(symbol: Any) -> dict[str, str]:
    """Options that a symbol says its binds have."""
    found = next((text for output in symbol if (text := output.attr(_ATTRIBUTE))), "{}")
    options: dict[str, str] = json.loads(found)
    return options


def options_of(symbol: Any) -> Options | None:
    """Options of a bind of this symbol, or None where it stays MXNet's."""
    options = asked_for(symbol)
    return decision.options_for(options or None)
