"""What the GPU tests need, or one sentence why they are skipped."""

from __future__ import annotations

from collections.abc import Iterator

import mxnet as mx
import pytest

import mxtrt
from mxtrt.engines.tensorrt import tensorrt
from mxtrt.errors import MxtrtError


@pytest.fixture(autouse=True)
def gpu(engine_cache: str) -> Iterator[None]:
    """TensorRT on a GPU."""
    try:
        tensorrt()
    except MxtrtError as reason:
        pytest.skip(str(reason))
    with mxtrt.options(enabled=False, engine="tensorrt", cache_dir=engine_cache):
        yield


@pytest.fixture
def device() -> mx.context.Context:
    """``mx.gpu()``."""
    if not mx.context.num_gpus():
        pytest.skip("this MXNet has no GPU code; install mxnet-cu117 1.9.1 for mx.gpu()")
    return mx.gpu()
