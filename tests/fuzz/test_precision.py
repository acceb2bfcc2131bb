"""The fuzzer's model of float16, and operators in it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

from mxtrt_fuzz.execute import Setup, observe
from mxtrt_fuzz.generate import cases, operator_cases
from mxtrt_fuzz.graphs import Case
from mxtrt_fuzz.oracle import Oracle

SETUP = Setup(masks=("none",), exactness=False)


def judged(case: Case) -> list[str]:
    """What does not hold of a case."""
    verdict = Oracle(lambda c: observe(c, SETUP)).judge(case, observe(case, SETUP))
    return [f"{failure.signature}: {failure.detail}" for failure in verdict.failures]


@pytest.mark.parametrize("name", ["FullyConnected", "Convolution", "LayerNorm", "softmax", "exp"])
def test_operators_agree_in_float16(name: str) -> None:
    """Within limits that follow from float16's roundoff."""

    @settings(derandomize=True, max_examples=8, deadline=None, database=None)
    @given(operator_cases(name))
    def lane(case: Case) -> None:
        assert not judged(case.replace(precision="fp16"))

    lane()


def test_limits_know_the_precision() -> None:
    """float16 gets more room than float32, but not much more than its roundoff."""

    @settings(derandomize=True, max_examples=8, deadline=None, database=None)
    @given(operator_cases("FullyConnected"))
    def lane(case: Case) -> None:
        widths = []
        for precision in ("fp32", "fp16"):
            (limit, *_), *_ = Oracle(observe).limits(case.replace(precision=precision))
            widths.append(limit.limit.max() / max(np.abs(limit.exact).max(), 1))
        assert widths[0] * 20 < widths[1] < 0.3

    lane()


def test_a_precision_is_drawn_and_kept() -> None:
    """Cases of float32 are written as ever, so that old ones keep their hashes."""
    seen = set()

    @settings(derandomize=True, max_examples=400, deadline=None, database=None)
    @given(cases())
    def lane(case: Case) -> None:
        seen.add(case.precision)
        assert Case.from_json(case.to_json()) == case
        assert ("precision" in case.to_dict()) == (case.precision != "fp32")

    lane()
    assert seen == {"fp32", "fp16"}
