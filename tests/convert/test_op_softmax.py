"""Softmax and the output layers compute what MXNet computes at inference."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.converters import SWEEP, check, check_op, data, mx, refusal, symbol, to_onnx


@pytest.mark.parametrize("op", ["softmax", "log_softmax", "softmin"])
def test_softmax_agrees_over_its_attributes(op: str) -> None:
    """Every axis from either end, and a temperature.

    Of one class alone the logarithm is 0, but oneDNN gives 1.4e-6: hence two at least.
    """

    @SWEEP
    @given(
        shape=st.lists(st.integers(2, 4), min_size=1, max_size=5),
        axis=st.one_of(st.none(), st.integers(-5, 4)),
        temperature=st.sampled_from([None, 0.5, 1.0, 3.0]),
    )
    def sweep(shape: list[int], axis: int | None, temperature: float | None) -> None:
        attrs: dict[str, Any] = {} if temperature is None else {"temperature": temperature}
        if axis is not None:
            attrs["axis"] = axis % len(shape) - (len(shape) if axis < 0 else 0)
        check_op(op, shape, **attrs)

    sweep()


@pytest.mark.parametrize(("op", "axis"), [("softmax", 1), ("log_softmax", -3)])
def test_axes_behind_it_become_one_of_any_size(op: str, axis: int) -> None:
    """ONNX Runtime is several times faster then; pictures of every size share one model."""
    small, large = (check_op(op, shape, axis=axis) for shape in ((2, 5, 3, 4), (1, 5, 6, 7)))
    assert small.body == large.body
    assert "Reshape" in small.ops
    assert "Reshape" not in check_op(op, (2, 5, 3), axis=1).ops


@pytest.mark.parametrize("op", ["softmax", "softmin", "SoftmaxActivation"])
def test_the_share_of_a_single_class_is_one(op: str) -> None:
    """In int8 too, where ONNX Runtime's softmax makes it zero."""
    assert check_op(op, (3, 1)).ops[-2:] == ["Sub", "Exp"]


@pytest.mark.parametrize(
    ("reason", "attrs"),
    [
        ("temperature=0", {"temperature": 0}),
        ("axis=2 is no axis", {"axis": 2}),
    ],
)
def test_softmax_that_would_differ_is_refused(reason: str, attrs: dict[str, Any]) -> None:
    """The message says why."""
    assert reason in refusal("softmax", (2, 3), **attrs)


def test_softmax_to_another_dtype_is_refused() -> None:
    """The attribute dtype makes the output float64."""
    sym = symbol("softmax", mx.sym.var("x"), dtype="float64")
    with pytest.raises(Exception, match="float64 is not float32"):
        to_onnx(sym, {"x": data(0, 2, 3)})
    check_op("softmax", (2, 3), dtype="float32")


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4), (2, 3, 4, 5)])
def test_softmax_activation_takes_the_last_axis(shape: tuple[int, ...]) -> None:
    """MXNet's documentation says the whole instance, its code the last axis."""
    assert check_op("SoftmaxActivation", shape).ops == ["Softmax"]


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 3, 4, 5)])
def test_softmax_activation_over_channels_agrees(shape: tuple[int, ...]) -> None:
    """mode=channel."""
    check_op("SoftmaxActivation", shape, mode="channel")


def _with_label(op: str, shape: tuple[int, ...], label: tuple[int, ...], **attrs: Any) -> None:
    sym = symbol(op, mx.sym.var("x"), mx.sym.var("label"), **attrs)
    converted = check(sym, {"x": data(0, *shape), "label": data(1, *label)}, ("x", "label"))
    assert list(converted.feeds) == ["x"]


@pytest.mark.parametrize(
    ("shape", "label", "attrs"),
    [
        ((2, 3), (2,), {}),
        ((2, 3), (2, 3), {"grad_scale": 2}),
        ((2, 3, 4), (2, 4), {"multi_output": True}),
        ((2, 3, 4, 5), (2, 4, 5), {"multi_output": True}),
        ((2, 3, 4), (2, 3), {"preserve_shape": True}),
        ((2, 3, 4, 5), (2, 3, 4), {"preserve_shape": True}),
    ],
)
def test_softmax_output_ignores_its_label(
    shape: tuple[int, ...], label: tuple[int, ...], attrs: dict[str, Any]
) -> None:
    """Over the classes, wherever multi_output and preserve_shape put them."""
    _with_label("SoftmaxOutput", shape, label, **attrs)


def test_softmax_output_whose_axis_depends_on_the_backend_is_refused() -> None:
    """MXNet's kernel and oneDNN disagree on more than two axes without a flag."""
    assert "neither multi_output" in refusal("SoftmaxOutput", (2, 3, 4), (2,))


@pytest.mark.parametrize(
    "op", ["LinearRegressionOutput", "LogisticRegressionOutput", "MAERegressionOutput"]
)
def test_regression_output_ignores_its_label(op: str) -> None:
    """The data, through a sigmoid where the name says logistic."""
    _with_label(op, (2, 3), (2, 3))


@pytest.mark.parametrize("op", ["MakeLoss", "make_loss"])
def test_a_loss_is_its_data(op: str) -> None:
    """The gradient matters in training only."""
    assert check_op(op, (2, 3)).ops == ["Identity"]


def test_lengths_that_are_no_integers_are_refused() -> None:
    """MXNet raises an error at the forward, which the caller is to see."""
    assert refusal("softmax", (2, 3), (2,), use_length=True) == "lengths of dtype float32"
