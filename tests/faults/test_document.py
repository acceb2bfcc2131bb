"""``docs/faults.md`` and the tests do not drift apart."""

from __future__ import annotations

import re
from pathlib import Path

from support.faults import FAULTS

ROOT = Path(__file__).parents[2]


def test_every_test_that_the_document_names_exists_and_every_fault_is_in_it():
    """Rows in brackets are those of the table in ``support/faults.py``."""
    text = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`(?:[\w.:]*)\[([^`]+)\]`", text)) == set(FAULTS)
    named = re.findall(r"`((?:tests/)?[\w/]+\.py)(?:::(\w+))?", text)
    assert len(named) > 10
    for file, test in named:
        path = ROOT / file if file.startswith("tests/") else Path(__file__).with_name(file)
        assert not test or f"def {test}(" in path.read_text(encoding="utf-8")
        assert path.exists()
