"""Failures, told apart by their signature.

Hypothesis tells failures apart by the class of the exception (and where it was raised), shrinks
each on its own and never lets one hide another: hence a class for every signature.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

__all__ = ["Failure", "Signature", "failure_class"]


@dataclass(frozen=True, slots=True, order=True)
class Signature:
    """What makes two failures one bug.

    Attributes:
        stage: Where: ``bind``, ``forward``, ``answer``, ``again`` (a later call), ``partition``,
            ``memory`` or ``worker``; ``client`` for a program in C, and ``client_...`` for what
            goes wrong there only.
        symptom: What was seen, such as ``value`` or ``crash``.
        blamed: Who disagrees with the others: ``mxtrt``, ``mxnet`` or ``reference``.
        operator: The first operator whose value is wrong, as far as it could be told.
        dtype: Dtype of its output.
    """

    stage: str
    symptom: str
    blamed: str
    operator: str
    dtype: str = "float32"

    def __str__(self) -> str:
        parts = (self.stage, self.symptom, self.blamed, self.operator, self.dtype)
        return "-".join(re.sub(r"[^A-Za-z0-9_]+", "_", part) for part in parts)


class Failure(AssertionError):  # noqa: N818 - a finding, not an error of the fuzzer
    """A property of a case that does not hold.

    Attributes:
        signature: What tells it apart from other failures.
        detail: One sentence for a person.
        severity: How far off, in units of the limit where there is one.
    """

    def __init__(self, signature: Signature, detail: str, severity: float = 1.0) -> None:
        super().__init__(f"{signature}: {detail}")
        self.signature = signature
        self.detail = detail
        self.severity = severity

    def specific(self) -> Failure:
        """The same failure as an instance of its signature's own class."""
        return _specific(self.signature, self.detail, self.severity)

    def __reduce__(self) -> tuple[Any, ...]:
        # Classes of signatures have no module to be looked up in.
        make = Failure if type(self) is Failure else _specific
        return make, (self.signature, self.detail, self.severity)

    def to_dict(self) -> dict[str, Any]:
        """The failure as JSON-ready data."""
        return {"signature": str(self.signature), "detail": self.detail, "severity": self.severity}


@cache
def failure_class(signature: Signature) -> type[Failure]:
    """The exception class of a signature: always the same one."""
    return type(str(signature), (Failure,), {"__doc__": f"Failures of {signature}."})


def _specific(signature: Signature, detail: str, severity: float) -> Failure:
    return failure_class(signature)(signature, detail, severity)
