"""Networks of MXNet's model zoo with weights drawn at random."""

from __future__ import annotations

import mxnet as mx
import numpy as np
from mxnet import autograd, gluon
from mxnet.gluon.model_zoo import vision


def batch_norms(block: gluon.Block) -> list[gluon.nn.BatchNorm]:
    """Every BatchNorm of a network."""
    found = [block] if isinstance(block, gluon.nn.BatchNorm) else []
    return found + [norm for child in block._children.values() for norm in batch_norms(child)]


def network(name: str, x: mx.nd.NDArray) -> gluon.HybridBlock:
    """A network whose activations keep their scale.

    He weights, and the BatchNorm statistics of one forward in training mode.
    """
    mx.random.seed(1, ctx=mx.cpu())
    np.random.seed(1)
    net = vision.get_model(name)
    net.collect_params().setattr("grad_req", "null")
    net.initialize(mx.init.MSRAPrelu(slope=0.0))
    for norm in batch_norms(net):
        norm._kwargs["momentum"] = 0.0
    with autograd.train_mode():
        net(x).wait_to_read()
    return net
