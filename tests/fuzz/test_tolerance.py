"""Limits are wide enough for float32, too narrow for float16, and know what rounding decides."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, seed, settings

from mxtrt.graph.symbol import Entry
from mxtrt_fuzz.corpus import read
from mxtrt_fuzz.execute import Setup, observe
from mxtrt_fuzz.generate import cases
from mxtrt_fuzz.graphs import Case, Operation, Tensor, Variable
from mxtrt_fuzz.reference import DEVIATIONS, Noise, Reference
from mxtrt_fuzz.tolerance import ESCALATED, SAMPLES, Limit, limits
from mxtrt_fuzz.values import input_arrays, weight_arrays


class Halves(Noise):
    """Rounds every operator's inputs and outputs to float16."""

    def perturb(self, values: Any, info: Any, roundings: float, absolute: float = 0.0) -> Any:
        """The values in half precision."""
        return values.astype(np.float16).astype(np.float64)


def _limits(case: Case, samples: int = SAMPLES) -> list[Limit]:
    arrays = {**weight_arrays(case), **input_arrays(case, 0)}
    return limits(Reference(case, arrays), case.heads, samples)


def test_the_exact_answer_has_no_error_and_one_rounding_is_allowed(
    make_chain: Callable[..., Case],
) -> None:
    """Four units in the last place at least."""
    (limit,) = _limits(make_chain("tanh", "sigmoid", shape=(64,)))
    assert limit.error(limit.exact) == 0
    assert limit.error(np.nextafter(limit.exact.astype("f"), np.float32(9))) <= 1
    assert limit.error(limit.exact * (1 + 1e-4)) > 1


def test_errors_of_an_approximation_may_all_be_the_largest(make_chain: Callable[..., Case]) -> None:
    """TensorRT's tanh is off by up to 129 roundoffs, by the same for equal values."""
    largest = 129 * 2.0**-24
    for chain, terms in ((("tanh",), 1), (("tanh", ("sum", {"axis": "1"})), 64)):
        case = make_chain(*chain, shape=(4, 64))
        arrays = {name: np.full(array.shape, 0.5) for name, array in input_arrays(case, 0).items()}
        (limit,) = limits(Reference(case, arrays, coarse=True), case.heads)
        assert limit.error(limit.exact + terms * largest) <= 1
        assert limit.error(limit.exact + 2 * terms * largest) > 1
        (usual,) = limits(Reference(case, arrays), case.heads)
        assert usual.error(limit.exact + terms * largest) > 1


@pytest.mark.parametrize(
    ("name", "place", "answer"),
    [
        ("Convolution-float32-14be9883", (0, 0, 1, 1), -0.0756247044),
        ("FullyConnected-float32-27dff138", (1, 240), 0.156395867),
    ],
)
def test_sums_of_tensorrts_tanh_are_right(name: str, place: tuple[int, ...], answer: float) -> None:
    """What TensorRT 8.5 gave on an H200: within what its tanh is off by, and not by far."""
    known = read(Path(__file__).parents[2] / "fuzz" / "corpus" / f"answer-value-mxtrt-{name}")
    arrays = {name.partition("@0")[0]: array for name, array in known.arrays.items()}
    (limit,) = limits(Reference(known.case, arrays, coarse=True), known.case.heads, ESCALATED)
    assert 0.3 < abs(answer - limit.exact[place]) / limit.limit[place] < 0.7


def test_a_class_of_its_own_is_infinitely_far(make_chain: Callable[..., Case]) -> None:
    """NaN for a number, an infinity of the other sign."""
    (limit,) = _limits(make_chain("tanh", shape=(4,)))
    wrong = limit.exact.copy()
    wrong[1] = np.nan
    assert limit.error(wrong) == np.inf


def test_what_a_rounding_decides_is_undetermined(make_chain: Callable[..., Case]) -> None:
    """The sign of a difference that is zero but for rounding; and all that depends on it."""
    third = ("_mul_scalar", {"scalar": "0.3333333432674408"})
    back = ("_div_scalar", {"scalar": "0.3333333432674408"})
    case = make_chain(third, back, "floor", "exp", shape=(64,)).replace(lane="grid")
    (limit,) = _limits(case)
    whole = input_arrays(case, 0)["data0"] % 1 == 0
    assert whole.any()
    assert np.array_equal(limit.undetermined, whole & (limit.exact != 1))


def test_what_the_noise_may_take_over_a_jump_is_undetermined(
    make_chain: Callable[..., Case],
) -> None:
    """Whether or not one of a few samples went that far: a third is off by a part of a roundoff."""
    third = ("_mul_scalar", {"scalar": "0.3333333432674408"})
    case = make_chain(third, "rint", shape=(3,))
    # Within four roundoffs of a half, a hundred of them away, and far from it.
    data = np.float32([1.5 - 6e-7, 1.5 - 2e-5, 1.0]).astype(np.float64) / 1.0000000298
    for seeds in (2, 8, 64):
        (limit,) = limits(Reference(case, {"data0": data}), case.heads, seeds)
        assert limit.undetermined.tolist() == [True, False, False]


def test_what_jumps_says_nothing_of_the_others_in_its_row(make_chain: Callable[..., Case]) -> None:
    """A remainder next to a multiple of the divisor is anything; the others keep their limits."""
    third = ("_mul_scalar", {"scalar": "0.3333333432674408"})
    back = ("_div_scalar", {"scalar": "0.3333333432674408"})
    rest = ("_mod_scalar", {"scalar": "1.0"})
    case = make_chain(third, back, rest, shape=(4, 16)).replace(lane="grid")
    (limit,) = _limits(case)
    data = input_arrays(case, 0)["data0"]
    jumps = (data % 1 == 0) & (data != 0)
    assert jumps.any()
    assert not jumps.all()
    assert np.array_equal(limit.undetermined, jumps)
    assert limit.limit[~jumps].max() < 1e-5


def test_a_partial_sum_that_may_overflow_is_undetermined() -> None:
    """Of large terms of both signs the order decides, and what depends on it."""
    nodes = (
        Variable("x", Tensor((2, 3))),
        Variable("y", Tensor((3, 1)), "weight"),
        Operation("dot", "dot", (), (Entry(0), Entry(1)), (Tensor((2, 1)),)),
        Operation("sigmoid", "sigmoid", (), (Entry(2),), (Tensor((2, 1)),)),
    )
    case = Case(nodes, (Entry(2), Entry(3)), lane="huge")
    x = np.array([[3e38, -3e38, 1], [1, 2, 3]])
    arrays = {"x": x, "y": np.array([[2], [2], [1.5]])}
    for limit in limits(Reference(case, arrays), case.heads):
        assert limit.undetermined.tolist() == [[True], [False]]


def test_an_exact_jump_is_determined(make_chain: Callable[..., Case]) -> None:
    """Ties of halves are not excused when nothing was rounded before."""
    case = make_chain("rint", shape=(64,)).replace(lane="grid")
    (limit,) = _limits(case)
    assert not limit.undetermined.any()
    assert limit.error(np.round(input_arrays(case, 0)["data0"] + 0.25)) > 1


def test_a_comparison_does_not_hide_what_is_undetermined(make_chain: Callable[..., Case]) -> None:
    """Its value is a number whatever it compares."""
    third = ("_mul_scalar", {"scalar": "0.3333333432674408"})
    back = ("_div_scalar", {"scalar": "0.3333333432674408"})
    positive = ("_greater_scalar", {"scalar": "0.5"})
    case = make_chain(third, back, "floor", positive, "exp", shape=(64,)).replace(lane="grid")
    (limit,) = _limits(case)
    data = input_arrays(case, 0)["data0"]
    assert np.array_equal(limit.undetermined, (data % 1 == 0) & (data != 0))


def test_integers_have_to_be_equal(make_chain: Callable[..., Case]) -> None:
    """But for those that C++ leaves undefined, and for what is made of them."""
    case = make_chain(("Cast", {"dtype": "uint8"}), ("_plus_scalar", {"scalar": "250"}))
    data = np.float32([[0.5, 3.9, 250.0, -1.0, np.nan, 1e9]])
    tensor = Tensor(data.shape, "uint8")
    nodes = [dataclasses.replace(case.nodes[0], tensor=Tensor(data.shape))]
    nodes += [dataclasses.replace(node, outputs=(tensor,)) for node in case.nodes[1:]]
    case = case.replace(nodes=tuple(nodes))
    (limit,) = limits(Reference(case, {"data0": data}), case.heads)
    assert limit.exact[0, :3].tolist() == [250, 253, 244]
    assert limit.undetermined.tolist() == [[False, False, False, True, True, True]]
    assert limit.error(limit.exact.astype(np.uint8)) == 0
    assert limit.error(limit.exact.astype(np.uint8) + np.uint8(1)) > 1


def test_noise_keeps_zeros_and_follows_the_roundings() -> None:
    """The standard deviation is that asked for."""
    values = np.concatenate([np.zeros(1000), np.full(20000, 3.0)])
    noisy = Noise(1).perturb(values, np.finfo(np.float32), 2.0)
    assert np.array_equal(noisy[:1000], values[:1000])
    deviation = np.std(noisy[1000:] / 3 - 1) / (np.finfo(np.float32).eps / 2)
    assert 1.9 < deviation < 2.1


@pytest.mark.parametrize("name", ["logical_and", "equal", "not_equal", "greater"])
def test_what_cancels_may_be_equal_to_the_bit(name: str) -> None:
    """Thirds that are taken from each other are 0 in float32 and 1e-17 in float64."""
    third = ("scalar", "0.3333333432674408")
    shape = Tensor((8,))
    nodes = (
        Variable("x", shape, "data", 1, 2),
        Operation("_mul_scalar", "a", (third,), (Entry(0),), (shape,)),
        Operation("_div_scalar", "b", (third,), (Entry(1),), (shape,)),
        Operation("elemwise_sub", "c", (), (Entry(2), Entry(0)), (shape,)),
        Operation(f"_{name}", "d", (), (Entry(3), Entry(0)), (shape,)),
        Operation(f"_{name}", "e", (), (Entry(2), Entry(0)), (shape,)),
    )
    cancelled, equal = _limits(Case(nodes, (Entry(4), Entry(5))))
    assert cancelled.undetermined.all() == (name == "logical_and")
    assert equal.undetermined.all() == (name != "logical_and")


def test_tensorrt_may_flush_what_it_only_copies(make_chain: Callable[..., Case]) -> None:
    """Its kernels make zeros of subnormal numbers, in a relu too; others' do not."""
    case = make_chain("relu", shape=(3,))
    arrays = {"data0": np.float32([2**-128, 3.0, -2.0])}
    flushed = np.float32([0.0, 3.0, 0.0])
    references = [Reference(case, arrays, coarse) for coarse in (True, False)]
    own, others = (limits(reference, case.heads, ESCALATED)[0] for reference in references)
    assert own.error(flushed) < 1
    assert others.error(flushed) > 1e5
    assert others.worst(flushed) == "0 at (0,) where 2.93873588e-39 is right to 5.6e-45, 1 of 3 off"


def test_what_is_as_small_as_its_absolute_error_may_vanish() -> None:
    """And with it a comparison with zero: softrelu(-15) is 3e-7, and 0 in MXNet."""
    info = np.finfo(np.float32)
    noisy = Noise(1).perturb(np.full(1000, 3e-7), info, 2.0, absolute=6.0)
    assert 50 < np.count_nonzero(noisy == 0) < 300
    assert np.all(Noise(1).perturb(np.full(1000, 3e-6), info, 2.0, absolute=6.0) != 0)


class _Study(NamedTuple):
    """Graphs by what became of their answers in float32 (plain MXNet's) and in float16.

    Attributes:
        seen: How many were looked at.
        refused: The float32 answer was.
        accepted: The float16 answer was.
        alike: The float16 answer was, where float32 itself is no better: behind what cancels its
            own errors are as large as roundings to float16.
    """

    seen: list[str]
    refused: list[str]
    accepted: list[str]
    alike: list[str]


def _study(count: int) -> _Study:
    found = _Study([], [], [], [])
    setup = Setup(masks=(), exactness=False)

    @seed(1)
    @settings(max_examples=count, deadline=None, database=None)
    @given(cases(lanes=("uniform",)))
    def study(case: Case) -> None:
        case = case.replace(precision="fp32")
        tensors = [case.tensor(Entry(place)) for place in range(len(case.nodes))]
        if any(tensor.dtype == "float16" for tensor in tensors):
            return  # the answer in float16 is right there
        plain = observe(case, setup)
        if plain.invalid:  # oneDNN makes no grouped convolution of some of MXNet's layouts
            return
        drawn = str([(node.op, dict(node.attrs)) for node in case.operations])
        found.seen.append(drawn)
        known = _limits(case)

        def wrong(known: list[Limit]) -> bool:
            pairs = zip(known, plain.plain[0], strict=True)
            return any(limit.error(head) > 1 for limit, head in pairs)

        if wrong(known) and wrong(_limits(case, ESCALATED)):  # as the oracle before it reports it
            found.refused.append(drawn)
        reference = Reference(case, {**weight_arrays(case), **input_arrays(case, 0)})
        half = reference.values(Halves(0))
        heads = list(zip(case.heads, known, strict=True))
        if any(limit.error(half[head]) > 1 for head, limit in heads):
            return
        # Where any rounding decides, as at the ties of a round, float16 is as right as float32.  A
        # number that happens to be near one of float16's tells nothing.
        off = [
            (np.abs(half[head] - limit.exact) > np.maximum(1e-5, np.abs(limit.exact) * 2**-13))
            & ~limit.undetermined
            for head, limit in heads
        ]
        if not any(elements.any() for elements in off):
            return
        singles = [reference.values(Noise(number)) for number in range(ESCALATED)]
        for (head, limit), elements in zip(heads, off, strict=True):
            errors = np.stack([single[head] - limit.exact for single in singles])
            own = DEVIATIONS * np.sqrt(np.square(errors).mean(0))
            if (elements & (own < np.abs(limit.exact) * 2**-12)).any():
                found.accepted.append(drawn)
                return
        found.alike.append(drawn)

    study()
    return found


def test_plain_mxnet_is_within_the_limits_and_float16_is_not() -> None:
    """No false alarm on clean graphs, and no float16 taken for float32."""
    study = _study(120)
    assert len(study.seen) > 90
    assert study.refused == []
    assert study.accepted == []


@pytest.mark.slow
def test_tolerance_study(table: Callable[..., None]) -> None:
    """The same on two thousand graphs, few of which are too ill-conditioned to tell."""
    study = _study(2000)
    counts = {name: len(graphs) for name, graphs in study._asdict().items()}
    table("tolerance study", **counts)
    assert study.refused == []
    assert study.accepted == []
    assert counts["alike"] <= counts["seen"] / 200
