"""Networks trained on scikit-learn's digits."""

from __future__ import annotations

from typing import Any, NamedTuple

import mxnet as mx
import numpy as np
from mxnet import autograd, gluon
from mxnet.gluon import nn


class Digits(NamedTuple):
    """Pictures and labels, enlarged to 28x28."""

    train: Any
    train_labels: Any
    test: Any
    test_labels: np.ndarray[Any, Any]


def digits(seed: int) -> Digits:
    """A split of the data set: three quarters for training."""
    from sklearn.datasets import load_digits

    pictures, labels = load_digits(return_X_y=True)
    pictures = pictures.reshape(-1, 1, 8, 8).astype(np.float32) / 16
    data = np.pad(pictures.repeat(3, 2).repeat(3, 3), ((0, 0), (0, 0), (2, 2), (2, 2)))
    order = np.random.default_rng(seed).permutation(len(labels))
    train, test = order[: len(order) * 3 // 4], order[len(order) * 3 // 4 :]
    return Digits(
        mx.nd.array(data[train]), mx.nd.array(labels[train]), mx.nd.array(data[test]), labels[test]
    )


def lenet() -> Any:
    """LeNet-5 with relu."""
    net = nn.HybridSequential()
    net.add(
        nn.Conv2D(6, 5, padding=2, activation="relu"),
        nn.MaxPool2D(),
        nn.Conv2D(16, 5, activation="relu"),
        nn.MaxPool2D(),
        nn.Dense(120, activation="relu"),
        nn.Dense(84, activation="relu"),
        nn.Dense(10),
    )
    return net


def small_resnet() -> Any:
    """Residual blocks with BatchNorm at three resolutions."""
    return gluon.model_zoo.vision.ResNetV1(
        gluon.model_zoo.vision.BasicBlockV1, [1, 1, 1], [16, 16, 32, 64], classes=10, thumbnail=True
    )


def trained(net: Any, data: Digits, epochs: int, seed: int) -> Any:
    """The network after some epochs of Adam."""
    mx.random.seed(seed)
    net.initialize(mx.init.Xavier())
    net.hybridize()
    loss_of = gluon.loss.SoftmaxCrossEntropyLoss()
    trainer = gluon.Trainer(net.collect_params(), "adam", {"learning_rate": 2e-3})
    random = np.random.default_rng(seed)
    for _ in range(epochs):
        for batch in np.array_split(random.permutation(len(data.train)), len(data.train) // 64):
            with autograd.record():
                loss = loss_of(net(data.train[batch]), data.train_labels[batch])
            loss.backward()
            trainer.step(len(batch))
    mx.nd.waitall()
    return net
