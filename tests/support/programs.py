"""What programs in other languages say, see ``tests/frontends``."""

from __future__ import annotations

import numpy as np


def told(name: str, said: str) -> int:
    """A number that a program writes to its standard error, after its name."""
    return int(said.rpartition(f"{name} ")[2].split()[0])


def runs(said: str) -> int:
    """How often engines ran."""
    return told("runs", said)


def agree(ours: np.ndarray, plain: np.ndarray) -> None:
    """Hold the numbers of a program with engines against those of plain MXNet."""
    assert ours.size == plain.size > 0
    np.testing.assert_allclose(ours, plain, rtol=1e-4, atol=1e-5)
