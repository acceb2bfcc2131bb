"""What TensorRT is asked for by a bind."""

from __future__ import annotations

from typing import Any

import numpy as np

from mxtrt import config
from mxtrt.engines import BuildRequest, Weight
from mxtrt.engines.tensorrt.builder import canonical
from mxtrt.graph.symbol import TensorType
from support.networks import classifier, images, parameters
from support.segments import segments_of

X = images()
F32 = np.dtype(np.float32)
AMPERE = (8, 6)  # a GPU that need not be there


def request_for(
    batches: tuple[int, int, int] | None = None, seed: int = 0, **options: Any
) -> BuildRequest:
    """The classifier, as a bind asks for it."""
    symbol = classifier()
    (segment,) = segments_of(symbol, {"data": X.shape, "softmax_label": X.shape[:1]})
    args, aux = parameters(symbol, seed=seed, data=X.shape)
    arrays = {**args, **aux}
    request = BuildRequest(
        segment,
        [Weight.of(w, arrays[w.name]) for w in segment.weights],
        [TensorType(X.shape, F32)],
        [TensorType((X.shape[0], 10), F32)],
        config.current().replace(**options),
        batches=batches,
    )
    return canonical(request)
