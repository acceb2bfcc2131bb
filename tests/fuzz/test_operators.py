"""The per-operator lane: every operator alone, over its attribute space, against the oracle.

An operator is its converter and its specification: a converter without one fails here.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings

import mxtrt.ops
from mxtrt_fuzz.execute import Setup, observe
from mxtrt_fuzz.generate import operator_cases
from mxtrt_fuzz.graphs import Case
from mxtrt_fuzz.oracle import Oracle
from mxtrt_fuzz.specs import specs

_LANE = settings(derandomize=True, max_examples=25, deadline=None, database=None)
_SETUP = Setup(masks=("none",), exactness=False)


def test_every_converter_has_a_specification() -> None:
    """From the registry of converters, not from a list."""
    missing = set(mxtrt.ops.registry()) - set(specs())
    assert not missing, f"add an OpSpec in fuzz/mxtrt_fuzz/specs for {sorted(missing)}"


@pytest.mark.parametrize("name", sorted(specs()))
def test_operator_agrees_with_mxnet_and_the_reference(name: str) -> None:
    """MXNet accepts every application, infers the reference's shapes, and all three agree."""
    oracle = Oracle(lambda case: observe(case, _SETUP))

    @_LANE
    @given(operator_cases(name))
    def lane(case: Case) -> None:
        seen = observe(case, _SETUP)
        verdict = oracle.judge(case, seen)
        assert not verdict.invalid, verdict.invalid
        for failure in verdict.failures:
            raise failure

    lane()
