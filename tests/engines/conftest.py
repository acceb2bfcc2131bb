"""TensorRT for RTX, whose builder needs no GPU."""

from __future__ import annotations

import sys

import pytest

from mxtrt.engines.tensorrt.api import Api, load_api


@pytest.fixture(scope="session")
def api() -> Api:
    """TensorRT for RTX."""
    pytest.importorskip(
        "tensorrt_rtx", reason="TensorRT for RTX is not installed: pip install '.[trt-check]'"
    )
    return load_api("tensorrt_rtx")


@pytest.fixture
def stand_in_api(monkeypatch: pytest.MonkeyPatch, stand_in: str) -> Api:
    """The stand-in."""
    monkeypatch.syspath_prepend(stand_in)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    api = Api("tensorrt")
    monkeypatch.delitem(sys.modules, "tensorrt")
    return api
