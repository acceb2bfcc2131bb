"""Which engine a folder of tests runs on."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime, whatever the machine has, in the folder whose conftest imports this."""
    monkeypatch.setenv("MXTRT_ENGINE", "onnxruntime")
