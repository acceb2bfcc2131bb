"""What tests of plans share."""

from __future__ import annotations

import pytest
from support.ranged import Ranged


@pytest.fixture
def ranged(monkeypatch: pytest.MonkeyPatch) -> Ranged:
    """The engine."""
    monkeypatch.setenv("MXTRT_ENGINE", "onnxruntime")
    return Ranged(monkeypatch)
