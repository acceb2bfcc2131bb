"""Cases are valid by construction, complete on paper, and cover what they are drawn from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from statistics import median

import numpy as np
import pytest
from hypothesis import given, settings

from mxtrt.graph.symbol import Entry
from mxtrt_fuzz.generate import cases
from mxtrt_fuzz.graphs import BINDS, C_BINDS, LANES, Case, Operation, Tensor, Variable
from mxtrt_fuzz.reduce import retyped
from mxtrt_fuzz.specs import INTEGERS, whole
from mxtrt_fuzz.values import INPUT_SETS, fill, input_arrays, weight_arrays


def drawn(count: int) -> list[Case]:
    """The first cases of a fixed seed."""
    found: list[Case] = []

    @settings(derandomize=True, max_examples=count, deadline=None, database=None)
    @given(cases())
    def collect(case: Case) -> None:
        found.append(case)

    collect()
    return found


@pytest.fixture(scope="module")
def sample() -> list[Case]:
    """Enough cases for the rarest draws: Hypothesis often varies a case that it drew before."""
    return drawn(500)


def test_a_case_survives_json(sample: list[Case]) -> None:
    """Nothing is lost, and the hash stays the same."""
    for case in sample:
        again = Case.from_json(case.to_json())
        assert again == case
        assert again.digest == case.digest


def test_names_are_drawn_too(sample: list[Case]) -> None:
    """Of another script, with escapes, and those that the project makes itself; each once."""
    names = [node.name for case in sample for node in case.nodes]
    for part in ("卷积", "\\", '"', "\n", "\x01", "/", "__1", "_output0"):
        assert any(part in name for name in names), part
    assert any(case.nodes[0].name == "data0" for case in sample)
    for case in sample:
        assert len({node.name for node in case.nodes}) == len(case.nodes)


def test_shapes_are_those_of_the_reference(sample: list[Case]) -> None:
    """What growth wrote down is what the shape rule says of the finished case."""
    for case in sample:
        assert retyped(case) == case


def test_every_node_is_needed_by_a_head(sample: list[Case]) -> None:
    """Nothing is left over from growth."""
    for case in sample:
        assert case.keeping() == case
        assert case.operations


def test_all_outputs_of_moments_are_read(sample: list[Case]) -> None:
    """MXNet's variance is that around a mean that it leaves out where nothing needs it."""
    assert all(whole(case) == case for case in sample)
    x, one = Tensor((2, 3)), Tensor((3,))
    moments = Operation("moments", "m", (("axes", "(0,)"),), (Entry(0),), (one, one))
    unused = Operation("exp", "e", (), (Entry(1),), (one,))
    nodes = (Variable("x", x), moments, unused)
    case = whole(Case(nodes, (Entry(1, 1),)))
    assert case == Case(nodes[:2], (Entry(1, 1), Entry(1, 0)))
    assert whole(case) == case


def test_cases_vary_in_everything_that_is_drawn(sample: list[Case]) -> None:
    """Sizes, lanes, binds, masks, dtypes, several inputs and heads, inputs that are heads."""
    sizes = [len(case.operations) for case in sample]
    assert 5 <= median(sizes) <= 12
    assert max(sizes) > 15
    assert {case.lane for case in sample} == set(LANES)
    # Those in C: test_programs_in_c.py.
    assert {case.bind for case in sample} >= set(BINDS) - set(C_BINDS)
    assert any(case.denied for case in sample)
    assert any(not case.denied for case in sample)
    dtypes = {case.tensor(Entry(i)).dtype for case in sample for i in range(len(case.nodes))}
    assert {"float32", "float64"} < dtypes
    assert dtypes.intersection(INTEGERS)
    data = [sum(v.role == "data" for v in case.variables) for case in sample]
    assert max(data) > 2
    assert max(len(case.heads) for case in sample) > 3
    assert any(len(set(case.heads)) < len(case.heads) for case in sample)
    assert any(isinstance(c.nodes[h.node], Variable) for c in sample for h in c.heads)
    operators = Counter(node.op for case in sample for node in case.operations)
    assert len(operators) > 70


def test_some_weights_are_shared(sample: list[Case]) -> None:
    """Two operators read one weight; but never a gamma, which MXNet overwrites."""
    shared = 0
    for case in sample:
        readers = Counter(
            entry.node for n in case.operations for entry in n.inputs if entry.output == 0
        )
        for index, count in readers.items():
            node = case.nodes[index]
            if isinstance(node, Variable) and node.role == "weight":
                shared += count > 1
        gammas = {n.inputs[1].node for n in case.operations if n.op == "BatchNorm"}
        assert all(readers[gamma] == 1 for gamma in gammas)
    assert shared > 3


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.pop("heads"),
        lambda data: data.update(format=99),
        lambda data: data.update(heads=[[7, 0]]),
        lambda data: data.update(bind="glue"),
        lambda data: data["nodes"][1].update(inputs=[[1, 0]]),
    ],
)
def test_a_damaged_case_is_refused(
    change: Callable[..., object], make_chain: Callable[..., Case]
) -> None:
    """With a ValueError, not something else."""
    data = make_chain("tanh").to_dict()
    change(data)
    with pytest.raises(ValueError, match=r".+"):
        Case.from_dict(data)


def test_values_of_a_variable_depend_on_its_name_seed_and_turn(
    make_chain: Callable[..., Case],
) -> None:
    """So that a reduced case keeps its numbers."""
    (variable,) = make_chain("tanh", shape=(50,)).variables
    values = [fill(variable, seed, turn) for seed in (0, 1) for turn in range(INPUT_SETS)]
    assert len({array.tobytes() for array in values}) == 4
    assert np.array_equal(fill(variable, 0, 0), values[0])
    assert np.abs(values[0]).max() <= 2


@pytest.mark.parametrize(
    ("lane", "holds"),
    [
        ("grid", lambda x: np.all(x * 2 == np.round(x * 2))),
        ("subnormal", lambda x: np.any((x != 0) & (np.abs(x) < np.finfo("f").tiny))),
        ("huge", lambda x: np.any(np.abs(x) > 1e15)),
        ("nonfinite", lambda x: np.isnan(x).any() and np.isinf(x).any()),
    ],
)
def test_lanes_hold_what_they_say(
    lane: str, holds: Callable[..., bool], make_chain: Callable[..., Case]
) -> None:
    """In the data; weights stay tame."""
    case = make_chain("tanh", shape=(400,)).replace(lane=lane)
    assert holds(input_arrays(case, 0)["data0"])
    assert not weight_arrays(case)


def test_growth_uses_operators_without_a_converter(sample: list[Case]) -> None:
    """They split graphs where no mask does."""
    assert any(isinstance(n, Operation) and n.op == "round" for c in sample for n in c.nodes)
