"""Arrays that MXNet has no code to fill, on a GPU that is not there."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import mxnet as mx
import numpy as np
import pytest

from mxtrt.hooks import filling
from mxtrt.hooks.filling import fill


def executor(*arrays: mx.nd.NDArray) -> Any:
    """What ``fill`` looks at of an executor on a GPU."""
    return SimpleNamespace(
        _ctx=SimpleNamespace(device_type="gpu"),
        arg_dict={f"arg{i}": array for i, array in enumerate(arrays)},
        aux_dict={},
    )


def failed() -> mx.nd.NDArray:
    """An array that an operator failed to write, which nobody was told yet."""
    return mx.nd.random.exponential(-1.0, shape=(2, 3))


def test_what_has_no_code_is_filled_and_written_to_afterwards(monkeypatch):
    """The other arrays keep their values."""
    monkeypatch.setattr(filling, "_NO_CODE", "has to be positive")
    array, other = failed(), mx.nd.ones((2,))
    fill(executor(array, other))
    assert array.asnumpy().tolist() == [[0] * 3] * 2
    assert other.asnumpy().tolist() == [1, 1]
    mx.nd.ones((2, 3)).copyto(array)
    np.testing.assert_array_equal(array.asnumpy(), np.ones((2, 3)))


@pytest.mark.parametrize("kind", ["argument", "state"])
def test_arrays_of_another_executor_are_not_filled(kind, monkeypatch):
    """MXNet does not fill them: their failure is of something else, and stays with them."""
    monkeypatch.setattr(filling, "_NO_CODE", "has to be positive")
    shared = failed()
    bound = executor(mx.nd.ones((2,)), *([shared] if kind == "argument" else []))
    bound.aux_dict["state"] = shared if kind == "state" else mx.nd.ones((2,))
    fill(bound, {"arg1"})
    with pytest.raises(mx.MXNetError, match="has to be positive"):
        shared.asnumpy()


def test_another_failure_is_the_users():
    """It is raised as MXNet raises it."""
    with pytest.raises(mx.MXNetError, match="has to be positive"):
        fill(executor(failed()))


def test_arrays_in_host_memory_are_not_looked_at():
    """Their bind waits for nothing."""
    fill(SimpleNamespace(_ctx=mx.cpu()))
