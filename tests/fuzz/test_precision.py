"""The fuzzer's models of float16 and int8, and operators in them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings

from mxtrt.graph.symbol import Entry
from mxtrt.precision.ranges import Ranges, SegmentRanges, TensorRange
from mxtrt.precision.working import WorkingModel
from mxtrt_fuzz.execute import Setup, observe
from mxtrt_fuzz.generate import cases, operator_cases
from mxtrt_fuzz.graphs import Case, Operation, Tensor, Variable
from mxtrt_fuzz.oracle import Oracle
from mxtrt_fuzz.reference import Noise, Reference, quantization_steps

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
        seen.update({v.tensor.dtype for v in case.variables} & {"float16"})
        assert Case.from_json(case.to_json()) == case
        assert ("precision" in case.to_dict()) == (case.precision != "fp32")

    lane()
    assert seen == {"fp32", "fp16", "int8", "float16"}


@pytest.mark.parametrize("name", ["Convolution", "FullyConnected", "Deconvolution", "batch_dot"])
def test_operators_agree_in_int8(name: str) -> None:
    """Calibrated on their own inputs, within limits that follow from the quantization steps."""

    @settings(derandomize=True, max_examples=8, deadline=None, database=None)
    @given(operator_cases(name))
    def lane(case: Case) -> None:
        assert not judged(case.replace(precision="int8"))

    lane()


@pytest.mark.parametrize("bind", ["bind", "gluon", "optimize_for"])
def test_a_case_is_calibrated_for_what_a_bind_takes_for_weights(bind: str) -> None:
    """A layer that reads weights only is in an engine where one of them is taken for data."""
    nodes = (
        Variable("data0", Tensor((2, 3))),
        Operation("round", "op0", (), (Entry(0),), (Tensor((2, 3)),)),
        Variable("weight0", Tensor((2, 3)), "weight"),
        Variable("weight1", Tensor((4, 3)), "weight"),
        Operation(
            "FullyConnected",
            "op1",
            (("no_bias", "True"), ("num_hidden", "4")),
            (Entry(2), Entry(3)),
            (Tensor((2, 4)),),
        ),
    )
    assert not judged(Case(nodes, (Entry(1), Entry(4)), bind, precision="int8"))


def test_ranges_that_are_too_small_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values clipped at two thirds of what they reach lie outside the limits."""
    find = Ranges.find

    def narrowed(self: Ranges, model: WorkingModel) -> SegmentRanges:
        segment = find(self, model)
        narrow = [TensorRange(t.name, t.low * 2 / 3, t.high * 2 / 3) for t in segment.tensors]
        return dataclasses.replace(segment, tensors=narrow)

    nodes = (
        Variable("data0", Tensor((4, 3, 6, 6))),
        Variable("weight0", Tensor((4, 3, 1, 1)), "weight"),
        Operation(
            "Convolution",
            "op0",
            (("kernel", "(1, 1)"), ("no_bias", "True"), ("num_filter", "4")),
            (Entry(0), Entry(1)),
            (Tensor((4, 4, 6, 6)),),
        ),
    )
    case = Case(nodes, (Entry(2),), precision="int8")
    assert not judged(case)
    monkeypatch.setattr(Ranges, "find", narrowed)
    assert "answer-value-mxtrt-Convolution" in judged(case)[0]


def test_limits_know_the_quantization_steps() -> None:
    """Only what a product reads, writes or depends on is quantized; zeros stay what they are."""
    case = Case(
        (
            Variable("data0", Tensor((2, 3))),
            Variable("weight0", Tensor((3, 3)), "weight"),
            Operation("relu", "op0", (), (Entry(0),), (Tensor((2, 3)),)),
            Operation("dot", "op1", (), (Entry(2), Entry(1)), (Tensor((2, 3)),)),
            Operation("tanh", "op2", (), (Entry(3),), (Tensor((2, 3)),)),
        ),
        (Entry(4),),
    )
    data = np.float32([[-2.54, 1, 0], [0.5, 1.27, 2]])
    values = Reference(case, {"data0": data, "weight0": np.eye(3)}).values()
    steps = quantization_steps(case, [values])
    assert set(steps) == {Entry(place) for place in range(4)}
    assert steps[Entry(0)] == pytest.approx(0.02)
    assert steps[Entry(2)] == pytest.approx(4 / 254)
    rounded = Noise(0).quantize(np.array([0, 1.27, 1.27, -2.54]), 0.02)
    assert rounded[0] == 0
    assert rounded[1] == rounded[2] != 1.27
    assert abs(rounded[1] - 1.27) <= 0.01
    # 0.5 is on a grid of 0.02, and on no finer one.
    errors = [abs(Noise(seed).quantize(np.array([0.5]), 0.02) - 0.5) for seed in range(64)]
    assert 0.002 < np.sqrt(np.square(errors).mean()) < 0.006


@pytest.mark.parametrize("name", ["LayerNorm", "mean", "clip", "broadcast_add", "Pooling"])
def test_operators_agree_on_float16(name: str) -> None:
    """float16 in MXNet, in and out of the engine."""

    @settings(derandomize=True, max_examples=8, deadline=None, database=None)
    @given(operator_cases(name, "float16"))
    def lane(case: Case) -> None:
        assert {variable.tensor.dtype for variable in case.variables} == {"float16"}
        assert not judged(case)

    lane()
