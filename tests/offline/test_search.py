"""Per-layer errors, and the layers that accuracy needs in float32."""

from __future__ import annotations

from typing import Any

import mxnet as mx
import numpy as np
import pytest
from support.digits import digits, lenet, trained

import mxtrt
from mxtrt.offline.calibration import traced
from mxtrt.offline.search import answers, keep_accuracy, layer_errors

pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def trained_lenet() -> Any:
    """Symbol, parameters and labelled batches."""
    data = digits(0)
    net = trained(lenet(), data, 6, 0)
    symbol, params = traced(net)
    labels = mx.nd.array(data.test_labels)
    batches = [
        {"data": data.test[i : i + 50], "label": labels[i : i + 50]} for i in range(0, 200, 50)
    ]
    return symbol, params, batches


def ranges_of(trained_lenet: Any) -> Any:
    """Ranges of its first batches."""
    symbol, params, batches = trained_lenet
    return mxtrt.calibrate(symbol, batches, params=params, model="LeNet")


def damaged(trained_lenet: Any, layer: int) -> Any:
    """Ranges that make one layer useless in int8."""
    found = ranges_of(trained_lenet)
    (segment,) = found.segments
    names = [tensor.name for tensor in segment.tensors]
    place = names.index([name for name in names if "relu" in name][layer - 1])
    for tensor in segment.tensors[place : place + 2]:
        tensor.low, tensor.high = 0.0, 1e4
    return found


def test_errors_are_small_and_of_the_layer_alone(trained_lenet):
    """float16 loses less than int8; a wrong range shows in the layers that read it."""
    symbol, params, batches = trained_lenet
    half = dict(layer_errors(symbol, params, batches, "fp16"))
    eight = dict(layer_errors(symbol, params, batches, "int8", ranges_of(trained_lenet)))
    assert len(half) == len(eight) == 5
    for name, error in half.items():
        assert 0 < error < 1e-3
        assert error < eight[name] < 0.05
    wrong = layer_errors(symbol, params, batches, "int8", damaged(trained_lenet, 1))
    assert max(wrong, key=lambda item: item[1])[0] == list(eight)[1]
    assert wrong[0][1] == pytest.approx(next(iter(eight.values())))


def test_nothing_is_kept_where_nothing_is_lost(trained_lenet):
    """Every layer stays int8."""
    symbol, params, batches = trained_lenet
    found = ranges_of(trained_lenet)
    kept = keep_accuracy(symbol, params, lambda: batches, found, 0.02)
    assert kept.layers == []
    assert kept.of == 5
    assert kept.before == kept.after >= kept.float32 - 0.02


def test_the_layer_that_loses_is_kept(trained_lenet):
    """And no more than what accuracy needs."""
    symbol, params, batches = trained_lenet
    found = damaged(trained_lenet, 1)
    kept = keep_accuracy(symbol, params, lambda: batches, found, 0.005)
    assert kept.before < kept.float32 - 0.005
    assert kept.after >= kept.float32 - 0.005
    assert 1 <= len(kept.layers) <= 2
    (segment,) = found.segments
    marked = [layer.name for layer in segment.layers if layer.precision == "fp16"]
    assert sorted(marked) == sorted(kept.layers)


def test_without_labels_the_classes_of_float32_count(trained_lenet):
    """Agreement takes the place of accuracy."""
    symbol, params, batches = trained_lenet
    bare = [{"data": batch["data"]} for batch in batches]
    assert answers(symbol, params, bare).accuracy is None
    kept = keep_accuracy(symbol, params, lambda: bare, ranges_of(trained_lenet), 0.02)
    assert kept.float32 == 1
    assert kept.after >= 0.98


def test_answers_know_labels(trained_lenet):
    """As NumPy would count them."""
    symbol, params, batches = trained_lenet
    seen = answers(symbol, params, batches, precision="fp16")
    assert seen.accuracy == np.mean(seen.classes == seen.labels) > 0.9
    assert seen.agreement(answers(symbol, params, batches, enabled=False)) > 0.99
