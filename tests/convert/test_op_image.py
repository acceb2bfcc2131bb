"""Pictures become what Gluon's transforms make of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.converters import check, data, mx, refusal, symbol


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int32, np.int64, np.float32])
@pytest.mark.parametrize("shape", [(4, 5, 3), (2, 4, 5, 3), (3, 2, 1)])
def test_channels_come_first_and_255_becomes_1(shape: tuple[int, ...], dtype: Any) -> None:
    """One picture, or several."""
    picture = np.random.default_rng(0).integers(0, 120, shape).astype(dtype)
    check(symbol("_image_to_tensor", mx.sym.var("x")), {"x": picture})


@pytest.mark.parametrize(
    "attrs",
    [
        {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
        {"mean": (0.5,), "std": 0.25},
        {"mean": 0.5, "std": (0.229, 0.224, 0.225)},
    ],
)
@pytest.mark.parametrize("shape", [(3, 4, 5), (2, 3, 4, 5)])
def test_means_and_deviations_are_of_channels(
    shape: tuple[int, ...], attrs: dict[str, Any]
) -> None:
    """One for each, or one for all."""
    check(symbol("_image_normalize", mx.sym.var("x"), **attrs), {"x": data(0, *shape)})


def test_what_is_no_number_stays_in_mxnet() -> None:
    """With its reason."""
    said = refusal("_image_normalize", (3, 2, 2), mean="(a,)", std="1")
    assert said == "attribute mean='(a,)' is not understood"
