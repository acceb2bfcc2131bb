"""Precisions are tested on the embedded engine."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MXTRT_ENGINE", "onnxruntime")
