"""TensorRT for RTX, whose builder needs no GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mxtrt.engines.tensorrt.api import Api, load_api


@pytest.fixture(scope="session")
def api() -> Api:
    """TensorRT for RTX."""
    pytest.importorskip(
        "tensorrt_rtx", reason="TensorRT for RTX is not installed: pip install '.[trt-check]'"
    )
    return load_api("tensorrt_rtx")


@pytest.fixture(scope="session")
def ampere(api: Api) -> Callable[[Any], None]:
    """Configures a build for a GPU that need not be there."""

    def configure(builder_config: Any) -> None:
        builder_config.num_compute_capabilities = 1
        builder_config.set_compute_capability(api.trt.ComputeCapability.SM86, 0)

    return configure
