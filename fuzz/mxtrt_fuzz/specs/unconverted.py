"""An operator that no engine takes: it splits graphs into segments wherever it stands."""

from __future__ import annotations

import numpy as np

from mxtrt_fuzz.specs.base import OpSpec, like, register

register(
    OpSpec(
        "round",
        like,
        lambda attrs, x: np.copysign(np.floor(np.abs(x) + 0.5), x),
        roundings=0,
        jumps=True,
        nan_blind=True,
    ),
)
