"""What lower precision costs: networks trained on the digits, in every precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.digits import Digits, digits, lenet, small_resnet, trained

import mxtrt

pytest.importorskip("sklearn")


def accuracies(net: Any, data: Digits, **options: Any) -> tuple[float, np.ndarray[Any, Any]]:
    """Accuracy in percent, and the classes."""
    with mxtrt.options(engine="onnxruntime", **options):
        net.hybridize(static_alloc=True, static_shape=True)
        guess = net(data.test).asnumpy().argmax(1)
    if options.get("enabled", True):
        report = mxtrt.last_report()
        assert not report.reason
        assert not report.left
    return float((guess == data.test_labels).mean() * 100), guess


def check(net: Any, data: Digits, path: Any, method: str) -> str:
    """Accuracies of all precisions are close; returns them for a person to read."""
    plain, expected = accuracies(net, data, enabled=False)
    found = mxtrt.calibrate(
        net, [data.train[i : i + 64] for i in range(0, 512, 64)], out=path, method=method
    )
    assert found.samples == 512
    assert plain > 94
    told = [f"plain {plain:.2f}"]
    for precision, points in (("fp32", 0.01), ("fp16", 0.1), ("int8", 0.5)):
        accuracy, guess = accuracies(net, data, precision=precision, ranges=path)
        told.append(f"{precision} {accuracy:.2f} agree {(guess == expected).mean():.4f}")
        assert accuracy >= plain - points, told
        assert (guess == expected).mean() >= 0.99
    return ", ".join(told)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_lenet_keeps_its_accuracy(seed, tmp_path):
    """int8 within half a point, float16 within a tenth."""
    data = digits(seed)
    net = trained(lenet(), data, 12, seed)
    print("LeNet", seed, check(net, data, tmp_path / "ranges.json", "minmax"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile"])
def test_a_deeper_network_keeps_its_accuracy(seed, method, tmp_path):
    """With BatchNorm to fold and residual additions."""
    data = digits(seed)
    net = trained(small_resnet(), data, 6, seed)
    print("ResNet", seed, method, check(net, data, tmp_path / "ranges.json", method))
