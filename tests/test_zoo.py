"""Every network of MXNet's model zoo against plain MXNet."""

from __future__ import annotations

from collections.abc import Callable

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon.model_zoo import vision
from support.networks import ZOO
from support.zoo import network

import mxtrt

QUICK = {"densenet121", "mobilenet0.25", "mobilenetv2_0.25", "resnet18_v1", "squeezenet1.1"}


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in ZOO],
)
def test_zoo_networks_agree_with_plain_mxnet(name: str, table: Callable[..., None]) -> None:
    """Largest difference at most 1e-5 of the largest output, batch 1 and 4, in one segment."""
    size = 299 if name == "inceptionv3" else 224
    four = mx.nd.random.uniform(-1, 1, shape=(4, 3, size, size))
    net = network(name, four)
    errors = {}
    for batch in (1, 4):
        x = four[:batch]
        net.hybridize()
        expected = net(x).asnumpy()
        net.hybridize()
        with mxtrt.options():
            ours = net(x).asnumpy()
        errors[batch] = float(np.abs(ours - expected).max() / np.abs(expected).max())
    report = mxtrt.last_report()
    table(
        "zoo",
        network=name,
        nodes=report.nodes_in_engine,
        left=len(report.left),
        weights=f"{report.weight_bytes / 2**20:.1f} MiB",
        partition=f"{report.partition_seconds:.2f} s",
        build=f"{report.build_seconds:.2f} s",
        batch_1=f"{errors[1]:.1e}",
        batch_4=f"{errors[4]:.1e}",
    )
    assert report.left == []
    assert len(report.segments) == 1
    assert max(errors.values()) <= 1e-5


def test_the_zoo_has_no_other_networks():
    """The list is the whole zoo, as MXNet itself lists it."""
    with pytest.raises(ValueError, match="Available options are") as error:
        vision.get_model("no such network")
    assert sorted(str(error.value).split("\n\t")[1:]) == sorted(ZOO)
