"""The table of operators is that of the registry."""

from __future__ import annotations

from pathlib import Path

import mxtrt.convert.ops
from mxtrt.convert.ops.document import document

PATH = Path(__file__).parents[2] / "docs" / "operators.md"


def test_the_committed_table_is_what_the_registry_gives() -> None:
    """Write it anew with: python -m mxtrt.convert.ops.document."""
    assert PATH.read_text() == document()


def test_every_operator_has_its_restrictions_and_dtypes() -> None:
    """Those of functions that a converter calls, too."""
    rows = [line for line in document().splitlines() if line.startswith("| `")]
    for name in mxtrt.convert.ops.registry():
        assert any(f"`{name}`" in row for row in rows), name
    (pooling,) = (row for row in rows if row.startswith("| `Pooling`"))
    assert "pooling_convention=… is neither valid nor full" in pooling
    (concat,) = (row for row in rows if row.startswith("| `Concat`"))
    assert "| numbers |" in concat
