"""Every reproducer of the corpus is replayed; what is open has to fail still."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mxtrt_fuzz.corpus import Reproducer, reproducers
from mxtrt_fuzz.replay import replay

CORPUS = Path(__file__).parents[2] / "fuzz" / "corpus"


def _parameters() -> list[Any]:
    return [
        pytest.param(
            reproducer,
            id=reproducer.path.name,
            marks=[pytest.mark.xfail(reason=reproducer.open, strict=True)]
            if reproducer.open
            else [],
        )
        for reproducer in reproducers(CORPUS)
    ]


@pytest.mark.parametrize("reproducer", _parameters())
def test_reproducer(reproducer: Reproducer) -> None:
    """It fails no more, or is known to."""
    for failure in replay(reproducer):
        raise failure
