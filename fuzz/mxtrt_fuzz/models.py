"""Fuzzing a user's own model: support masks, batch sizes and inputs over one graph.

There is no float64 reference of a whole model; plain MXNet is the other party.  The limit is
derived from plain MXNet itself: it answers again to inputs perturbed by rounding noise.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

import mxtrt
from mxtrt.graph.symbol import Graph
from mxtrt_fuzz.execute import Observation
from mxtrt_fuzz.graphs import Case
from mxtrt_fuzz.oracle import Verdict
from mxtrt_fuzz.report import FuzzReport
from mxtrt_fuzz.signatures import Failure, Signature
from mxtrt_fuzz.tolerance import SAMPLES
from mxtrt_fuzz.values import Array

if TYPE_CHECKING:
    from mxtrt.cli.model import Model

__all__ = ["fuzz_model"]

#: Standard deviation of the noise on inputs, in roundoffs: every layer rounds once or twice.
_ROUNDINGS = 8.0
_DEVIATIONS = 8.0
_BATCHES = (1, 2, 3, 5, 8)


def fuzz_model(
    model: Model,
    weights: Mapping[str, Any],
    examples: int,
    seconds: float | None,
    seed: int,
    engine: str,
    progress: Callable[[FuzzReport], None] | None = None,
) -> FuzzReport:
    """Draw support masks, batch sizes and inputs over a model.

    Args:
        model: The model with the shapes of its data.
        weights: NDArrays of its weights and auxiliary states by name.
        examples: Draws.
        seconds: Seconds at the most, or None.
        seed: Seed of the draws.
        engine: An engine of ``mxtrt.config.ENGINES``.
        progress: Called after every draw.
    """
    return _ModelHunt(model, weights, seed, engine).run(examples, seconds, progress)


class _ModelHunt:
    def __init__(self, model: Model, weights: Mapping[str, Any], seed: int, engine: str) -> None:
        self._model, self._engine = model, engine
        self._random = np.random.default_rng(seed)
        states = set(model.symbol.list_auxiliary_states())
        self._args = {n: a for n, a in weights.items() if n not in states}
        self._aux = {n: a for n, a in weights.items() if n in states}
        graph = Graph.of(model.symbol)
        self._operators = sorted({node.op for node in graph.nodes if not node.is_variable})
        self._bytes = sum(a.size * np.dtype(a.dtype).itemsize for a in weights.values())

    def run(
        self, examples: int, seconds: float | None, progress: Callable[[FuzzReport], None] | None
    ) -> FuzzReport:
        report, begin = FuzzReport(), time.perf_counter()
        for _ in range(examples):
            if seconds is not None and time.perf_counter() - begin > seconds:
                break
            verdict = self._example()
            case = Case((), ())
            report.add(case, Observation(), verdict)
            for failure in verdict.failures:
                report.record(case, failure)
            report.wall = time.perf_counter() - begin
            if progress is not None:
                progress(report)
        return report

    def _example(self) -> Verdict:
        """One draw: some operators denied, a batch size, two sets of inputs."""
        random = self._random
        denied = [op for op in self._operators if random.random() < random.choice([0, 0.1, 0.4])]
        batch = int(random.choice(_BATCHES))
        shapes = {n: (batch, *shape[1:]) for n, shape in self._model.data.items()}
        turns = [
            {n: random.standard_normal(s).astype(self._model.dtypes[n]) for n, s in shapes.items()}
            for _ in range(2)
        ]
        drawn = f"batch {batch}, denied {denied or 'nothing'}"
        plain = self._bind(shapes, enabled=False)
        expected = [plain(inputs) for inputs in turns]
        verdict = Verdict()
        try:
            forward = self._bind(shapes, deny_ops=denied, engine=self._engine)
            answers = [forward(inputs) for inputs in turns]
        except Exception as error:
            signature = Signature("forward", "error", "mxtrt", "model")
            verdict.failures.append(Failure(signature, f"{drawn}: {error}"))
            return verdict
        report = mxtrt.last_report()
        assert report is not None
        if report.reason:
            signature = Signature("bind", "left_to_mxnet", "mxtrt", "model")
            verdict.failures.append(Failure(signature, f"{drawn}: {report.reason}"))
        if report.weight_bytes > self._bytes:
            signature = Signature("memory", "twice", "mxtrt", "model")
            told = f"{drawn}: engines hold {report.weight_bytes} B of {self._bytes} B of weights"
            verdict.failures.append(Failure(signature, told))
        for inputs, right, seen in zip(turns, expected, answers, strict=True):
            limits = self._limits(plain, inputs, right)
            for head, (one, two, limit) in enumerate(zip(right, seen, limits, strict=True)):
                verdict.elements += one.size
                distance = float(np.max(np.abs(one.astype(np.float64) - two) / limit, initial=0.0))
                verdict.worst = max(verdict.worst, distance)
                if not distance <= 1:
                    signature = Signature("answer", "value", "mxtrt", "model", str(one.dtype))
                    told = f"{drawn}, head {head}: {distance:.3g} limits from plain MXNet"
                    verdict.failures.append(Failure(signature, told, distance))
        return verdict

    def _limits(
        self, plain: Callable[[Any], list[Array]], inputs: Mapping[str, Array], right: list[Array]
    ) -> list[Array]:
        """How far plain MXNet's own answers move when its inputs are rounded otherwise."""
        squares = [np.zeros(head.shape) for head in right]
        for _ in range(SAMPLES):
            noisy = {}
            for name, array in inputs.items():
                unit = np.finfo(array.dtype).eps / 2 * _ROUNDINGS
                deviate = self._random.standard_normal(array.shape) * unit
                noisy[name] = (array * (1 + deviate)).astype(array.dtype)
            for total, head, sample in zip(squares, right, plain(noisy), strict=True):
                total += np.square(sample.astype(np.float64) - head)
        limits = []
        for total, head in zip(squares, right, strict=True):
            variance = total / SAMPLES
            pooled = np.maximum(variance, variance.mean(-1, keepdims=True))
            scale = np.finfo(head.dtype).eps * max(float(np.abs(head).max()), 1e-30)
            limits.append(_DEVIATIONS * np.sqrt(pooled) + _DEVIATIONS * scale)
        return limits

    def _bind(self, shapes: Mapping[str, Any], **options: Any) -> Callable[[Any], list[Array]]:
        import mxnet as mx

        with mxtrt.options(**options):
            executor = self._model.symbol.simple_bind(mx.cpu(), grad_req="null", **shapes)
            executor.copy_params_from(self._args, self._aux, allow_extra_params=True)

        def forward(inputs: Mapping[str, Array]) -> list[Array]:
            arrays = {n: mx.nd.array(a, dtype=a.dtype) for n, a in inputs.items()}
            return [head.asnumpy() for head in executor.forward(**arrays)]

        return forward
