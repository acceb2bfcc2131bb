"""What stays in MXNet says why."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
from support.converters import mx, refusal

import mxtrt.convert.ops
from mxtrt.convert.ops.left import LEFT


@pytest.mark.parametrize(
    ("op", "part"),
    [
        ("_contrib_fft", "Fourier"),
        ("_random_uniform", "random numbers"),
        ("_contrib_quantized_conv", "give the float32 model"),
        ("_contrib_requantize", "give the float32 model"),
        ("_foreach", "a graph of its own"),
        ("Custom", "code of yours"),
        ("_hypot_scalar_of_tomorrow", "no converter for operator _hypot_scalar_of_tomorrow"),
    ],
)
def test_the_reason_is_one_for_people(op: str, part: str) -> None:
    """By name, or by the part of the name that a family shares."""
    assert part in refusal(op, (2, 3))


@pytest.mark.parametrize("pattern", sorted(LEFT))
def test_every_reason_is_of_operators_of_mxnet_without_a_converter(pattern: str) -> None:
    """The table holds nothing that is converted, and nothing that does not exist."""
    known = [op for op in mx.operator.get_all_registered_operators() if fnmatchcase(op, pattern)]
    assert known
    assert not mxtrt.convert.ops.registry().keys() & set(known)
