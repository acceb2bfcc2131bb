"""Comparisons and logic: ones and zeros in the dtype of what is compared."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hypothesis import strategies as st

from mxtrt_fuzz.graphs import Shape
from mxtrt_fuzz.specs.base import (
    FLOATS,
    INTEGERS,
    Application,
    Draw,
    OpSpec,
    like,
    register,
)
from mxtrt_fuzz.specs.elementwise import broadcast, equal_shapes, of_arrays, with_scalar
from mxtrt_fuzz.values import Array

_FUNCTIONS: dict[str, Callable[..., Array]] = {
    "equal": np.equal,
    "not_equal": np.not_equal,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
    "lesser": np.less,
    "lesser_equal": np.less_equal,
    "logical_and": np.logical_and,
    "logical_or": np.logical_or,
    "logical_xor": np.logical_xor,
}

#: Often one of the halves and integers that the data hold in the lane of ties.  None is negative:
#: as uint8 that is undefined.
_SCALARS = st.one_of(
    st.sampled_from([0.0, 1.0, 0.5, 2.0, 1.5, float("inf"), float("nan")]),
    st.floats(2**-10, 2, width=32),
)


def _draw_scalar(draw: Draw, shape: Shape) -> Application:
    return Application({"scalar": draw(_SCALARS)})


def _numbers(function: Callable[..., Array]) -> Callable[..., Array]:
    return lambda x, *more: function(x, *more).astype(x.dtype)


def _spec(
    name: str,
    apply: Callable[[Draw, Shape], Application],
    reference: Callable[..., Array],
) -> OpSpec:
    return OpSpec(
        name,
        apply,
        reference,
        dtypes=FLOATS + INTEGERS,
        roundings=0,
        jumps=True,
        compares=True,
        spread=lambda attrs, *xs: sum(xs[1:], xs[0]),
    )


for _word, _function in _FUNCTIONS.items():
    _title = _word.title()
    for _name in (f"_{_word}", f"_{_title}"):
        register(_spec(_name, equal_shapes(-2.0), of_arrays(_numbers(_function))))
    register(_spec(f"broadcast_{_word}", broadcast(-2.0), of_arrays(_numbers(_function))))
    for _name in (f"_{_word}_scalar", f"_{_title.replace('_', '')}Scalar"):
        register(_spec(_name, _draw_scalar, with_scalar(_numbers(_function))))

register(_spec("logical_not", like, of_arrays(_numbers(np.logical_not))))
