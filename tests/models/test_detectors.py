"""Detectors are one segment, with their suppression, and find in pictures what MXNet finds."""

from __future__ import annotations

from typing import Any

import mxnet as mx
import numpy as np
import pytest
from support.detectors import detector, parameters

import mxtrt

data = pytest.importorskip("skimage.data")

SIDE = 128
#: Seeds of weights with which no two scores are as near as rounding errors are large.
SEEDS = {"ssd": 1, "yolo3": 7, "example": 1}
Array = np.ndarray[Any, Any]


def picture(name: str) -> Array:
    """The middle of one of scikit-image's pictures, ``(1, 3, 128, 128)``."""
    pixels = getattr(data, name)()[::2, ::2]
    top, left = ((size - SIDE) // 2 for size in pixels.shape[:2])
    pixels = pixels[top : top + SIDE, left : left + SIDE].transpose(2, 0, 1)
    return ((pixels / 255 - 0.45) / 0.25).astype(np.float32)[None]


def found(symbol: Any, args: dict[str, Any], aux: dict[str, Any], pixels: Array) -> list[Array]:
    """What a bind finds in a picture."""
    given = {**args, "data": mx.nd.array(pixels)}
    executor = symbol.bind(mx.cpu(), given, aux_states=aux, grad_req="null")
    return [output.asnumpy() for output in executor.forward(is_train=False)]


@pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea"])
@pytest.mark.parametrize("head", SEEDS)
def test_detectors_find_what_mxnet_finds(head: str, name: str) -> None:
    """Ids, scores and boxes in MXNet's order, of boxes of which many are suppressed."""
    pixels = picture(name)
    symbol = detector(head, SIDE)
    args, aux = parameters(symbol, SEEDS[head], data=pixels.shape)
    expected = found(symbol, args, aux, pixels)
    with mxtrt.options(allow_ops="_contrib_MultiBoxDetection"):
        ours = found(symbol, args, aux, pixels)
    report = mxtrt.last_report()
    assert len(report.segments) == 1, report
    assert report.left == []
    rows, theirs = (np.concatenate(outputs, -1)[0] for outputs in (ours, expected))
    kept = theirs[theirs[:, 0] >= 0]
    assert len(kept) > 10
    assert len(np.unique(kept[:, 0])) > 1
    (candidates,) = found(symbol.get_internals()["rows_output"], args, aux, pixels)
    assert np.count_nonzero(candidates[..., 1] > 0.01) > 1.2 * len(kept)
    np.testing.assert_array_equal(rows[:, 0], theirs[:, 0])
    np.testing.assert_allclose(rows, theirs, 1e-5, 1e-5)
