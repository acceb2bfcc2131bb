"""The random generators that MXNet hands to operators of extensions, here the CPU's."""

from __future__ import annotations

import mxnet as mx
import pytest

from mxtrt.errors import NodeError
from mxtrt.node import library


def settle() -> None:
    """What a bind on a GPU does, with the CPU's generators."""
    lib = library()
    lib.checked(lib.lib.mxtrt_settle_generators_of(mx.cpu().device_typeid, 0))


def test_generators_in_order_are_left_as_they_are():
    """The numbers that follow a seed are the same; nothing is recorded for autograd."""
    mx.random.seed(3)
    expected = mx.nd.random.uniform(shape=(4,)).asnumpy()
    mx.random.seed(3)
    with mx.autograd.record():
        settle()
        assert mx.autograd.is_recording()
    assert mx.nd.random.uniform(shape=(4,)).asnumpy().tolist() == expected.tolist()


def test_a_failure_of_somebody_elses_is_told():
    """MXNet tells a failure once: it is not lost here."""
    failing = mx.nd.random.exponential(-1.0, shape=(3,))
    with pytest.raises(NodeError, match="has to be positive"):
        settle()
    settle()
    del failing
