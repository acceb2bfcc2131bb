"""Lengths and indices that nobody gave are in range, for MXNet's kernels take them as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mxnet as mx
import numpy as np
import pytest

import mxtrt
from mxtrt.trial import fastest, segment, verify

F = mx.sym
X, V = F.var("x"), F.var("v")
STEPS = {"x": (5, 3, 4), "v": (3,)}

READERS: dict[str, tuple[Any, dict[str, tuple[int, ...]], int, int]] = {
    "SequenceMask": (F.SequenceMask(X, V, use_sequence_length=True), STEPS, 0, 5),
    "SequenceReverse": (F.SequenceReverse(X, V, use_sequence_length=True), STEPS, 0, 5),
    "SequenceLast": (F.SequenceLast(X, V, use_sequence_length=True), STEPS, 1, 5),
    "SequenceLast, axis 1": (
        F.SequenceLast(X, V, use_sequence_length=True, axis=1),
        {"x": (3, 5, 4), "v": (3,)},
        1,
        5,
    ),
    "softmax": (
        F.softmax(X, F.cast(V, "int32"), use_length=True, axis=1),
        {"x": (3, 5), "v": (3,)},
        0,
        5,
    ),
    "gather_nd": (F.gather_nd(X, V), {"x": (5, 3, 4), "v": (2, 6)}, 0, 2),
    "take": (F.take(X, V, axis=1), {"x": (5, 3, 4), "v": (7,)}, 0, 2),
    "pick": (F.pick(X, V), {"x": (6, 4), "v": (6,)}, 0, 3),
    "Embedding": (
        F.Embedding(V, X, input_dim=6, output_dim=4),
        {"x": (6, 4), "v": (2, 3)},
        0,
        5,
    ),
    "one_hot": (F.broadcast_mul(F.one_hot(V, depth=4), X), {"x": (3, 4), "v": (3,)}, 0, 3),
    "index_copy": (
        F.contrib.index_copy(X, F.cast(V, "int32"), F.var("new")),
        {"x": (6, 4), "v": (1,), "new": (1, 4)},
        0,
        5,
    ),
    "by moving and casting": (
        F.SequenceMask(X, F.cast(F.reshape(V, (-1,)), "int32"), use_sequence_length=True),
        {"x": (5, 3, 4), "v": (3, 1)},
        0,
        5,
    ),
    "computed": (F.SequenceLast(X, 2 * V - 1, use_sequence_length=True), STEPS, 1, 3),
    "of two places": (
        F.broadcast_add(
            F.SequenceLast(X, V, use_sequence_length=True),
            F.expand_dims(F.take(F.slice_axis(X, axis=0, begin=0, end=2), V, axis=0), 0).sum(),
        ),
        STEPS,
        1,
        1,
    ),
}


def drawn(
    monkeypatch: pytest.MonkeyPatch, symbol: Any, shapes: dict[str, tuple[int, ...]], **options: Any
) -> list[dict[str, np.ndarray]]:
    """The values with which engines were compared with MXNet at a bind without data."""
    seen: list[dict[str, np.ndarray]] = []
    run = segment.run_engine

    def record(node: Any, values: dict[str, np.ndarray]) -> Any:
        seen.append(values)
        return run(node, values)

    for module in (verify, fastest):
        monkeypatch.setattr(module, "run_engine", record)
    with mxtrt.options(allow_ops="*", **options):
        symbol.simple_bind(mx.cpu(), grad_req="null", **shapes).forward()
    assert mxtrt.last_report().left == []
    return seen


@pytest.mark.parametrize("options", [{"verify": True}, {"prefer": "fastest"}], ids=str)
@pytest.mark.parametrize("case", READERS)
def test_engines_are_compared_on_lengths_and_indices_in_range(
    monkeypatch: pytest.MonkeyPatch, case: str, options: dict[str, Any]
) -> None:
    """With random ones MXNet would write beyond its arrays."""
    symbol, shapes, low, high = READERS[case]
    monkeypatch.setattr(fastest, "_SECONDS", 0.001)
    monkeypatch.setattr(fastest, "MOST_NOISE", 1e9)
    values = drawn(monkeypatch, symbol * 2 + 1, shapes, **options)
    assert values
    for seen in values:
        assert low <= np.trunc(seen["v"]).min()
        assert np.trunc(seen["v"]).max() <= high


def test_regions_are_of_pictures_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not inside out."""
    pooled = F.contrib.ROIAlign(X, V, pooled_size=(2, 2), spatial_scale=0.5)
    (seen, *_) = drawn(monkeypatch, pooled, {"x": (2, 3, 8, 8), "v": (7, 5)}, verify=True)
    assert set(seen["v"][:, 0]) <= {0, 1}
    assert (seen["v"][:, 3:] > seen["v"][:, 1:3]).all()


def test_lengths_of_another_operators_in_mxnet_are_drawn_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They come into the segment from outside."""
    lengths = F.round(V, name="v_in_mxnet")
    masked = F.SequenceReverse(F.exp(X), lengths, use_sequence_length=True) * 2
    seen: list[dict[str, np.ndarray]] = []
    run = segment.run_engine

    def record(node: Any, values: dict[str, np.ndarray]) -> Any:
        seen.append(values)
        return run(node, values)

    monkeypatch.setattr(verify, "run_engine", record)
    with mxtrt.options(verify=True, allow_ops="*", deny_ops="round"):
        masked.simple_bind(mx.cpu(), grad_req="null", **STEPS).forward()
    values = seen[0]["v_in_mxnet_output0"]
    assert ((values >= 0) & (values <= 5)).all()


def test_indices_of_a_network_are_not_guessed() -> None:
    """What leads out of range with random numbers is not verified, and says so."""
    lengths = F.reshape(F.dot(X, F.var("w")) + 100, (-1,))
    symbol = F.SequenceReverse(F.var("y"), lengths, use_sequence_length=True) + 1
    args = {"x": (3, 4), "w": (4, 1), "y": (5, 3, 4)}
    given = {name: mx.nd.ones(shape) for name, shape in args.items()}
    with mxtrt.options(verify=True, allow_ops="*"):
        symbol.simple_bind(mx.cpu(), grad_req="null", **args).forward(**given)
    (segment,) = mxtrt.last_report().segments
    assert segment.built
    assert any("out of range" in note for note in segment.notes)


@pytest.mark.parametrize(
    "reads",
    [
        lambda places: F.Embedding(places, F.var("y"), input_dim=2, output_dim=4),
        lambda places: F.take(F.var("y"), places),
        lambda places: F.pick(F.var("y"), F.slice_axis(places, axis=0, begin=0, end=2)),
    ],
    ids=["Embedding", "take", "pick"],
)
def test_indices_of_a_network_that_mxnet_brings_into_range_are_verified(
    monkeypatch: pytest.MonkeyPatch, reads: Callable[..., Any]
) -> None:
    """TensorRT gets a softmax behind such an embedding wrong."""
    places = F.reshape(F.dot(X, F.var("w")) + 100, (-1,))
    shapes = {"x": (3, 4), "w": (4, 1), "y": (2, 4)}
    assert drawn(monkeypatch, reads(places) * 2 + 1, shapes, verify=True)


def _block(function: Callable[..., Any]) -> Any:
    class Block(mx.gluon.HybridBlock):
        def hybrid_forward(self, F: Any, x: Any, v: Any) -> Any:
            return function(F, x, v)

    block = Block()
    block.hybridize()
    return block


@pytest.mark.parametrize("given", [[1, 5, 2], [9e9, -4, 6]])
def test_the_lengths_of_the_first_call_are_taken_where_they_are_in_range(
    monkeypatch: pytest.MonkeyPatch, given: list[float]
) -> None:
    """Of a block; others, of which MXNet's kernel reads beyond its data, are replaced."""
    block = _block(lambda F, x, v: F.SequenceLast(F.exp(x), v, use_sequence_length=True) * 2)
    seen: list[np.ndarray] = []
    run = segment.run_engine

    def record(node: Any, values: dict[str, np.ndarray]) -> Any:
        (lengths,) = (array for array in values.values() if array.shape == (3,))
        seen.append(lengths)
        return run(node, values)

    monkeypatch.setattr(verify, "run_engine", record)
    x = mx.nd.array(np.random.default_rng(0).uniform(size=(5, 3, 4)))
    with mxtrt.options(verify=True, allow_ops="*"):
        block(x, mx.nd.array(given)).wait_to_read()
    if max(given) <= 5:
        assert seen[0].tolist() == given
    assert seen[0].min() >= 1
    assert seen[0].max() <= 5
