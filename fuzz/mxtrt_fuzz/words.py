"""What is worth telling of what a process wrote before it died."""

from __future__ import annotations

__all__ = ["last_words"]

# Lines that are kept of a crash: before Python's own report, and from its first line on.
_BEFORE, _AFTER = 3, 12


def last_words(log: str) -> str:
    """Of what a process that died wrote: what it died of, then the innermost calls.

    What a library says before it aborts stands in front of Python's own report.
    """
    idle = ("MXNET_SUBGRAPH_BACKEND", "Extension modules:")
    told = [
        line.strip()
        for line in log.splitlines()
        if line.strip() and not any(text in line for text in idle)
    ]
    fatal = [place for place, line in enumerate(told) if line.startswith("Fatal Python error")]
    start = max(fatal[-1] - _BEFORE, 0) if fatal else 0
    return " | ".join(told[start : start + _BEFORE + _AFTER])
