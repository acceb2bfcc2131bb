"""What TensorRT is asked for by a bind."""

from __future__ import annotations

from typing import Any

import numpy as np

from mxtrt import config
from mxtrt.engines import BuildRequest, Weight
from mxtrt.engines.ranges import Profile, Ranges
from mxtrt.engines.tensorrt.builder import canonical
from mxtrt.graph.symbol import TensorType
from support.networks import classifier, images, parameters
from support.segments import segments_of

X = images()
F32 = np.dtype(np.float32)
AMPERE = (8, 6)  # a GPU that need not be there


def batches(*sizes: tuple[int, int, int]) -> Ranges:
    """Profiles for the classifier, each of a smallest, a usual and a largest batch size."""
    profiles = (Profile(*(((size, *X.shape[1:]),) for size in one)) for one in sizes)
    return Ranges(tuple(profiles), (((0, 0),),))


def request_for(ranges: Ranges | None = None, seed: int = 0, **options: Any) -> BuildRequest:
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
        ranges=ranges,
    )
    return canonical(request)
