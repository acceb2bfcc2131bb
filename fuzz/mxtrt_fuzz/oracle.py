"""Who is right: the float64 reference, plain MXNet or mxtrt.

Two against one: the party that disagrees with both others is blamed.  Where plain MXNet and
mxtrt agree with each other but not with the reference, the reference is suspect; it may also be
that mxtrt faithfully repeats a mistake of MXNet's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from mxtrt.graph.symbol import Entry
from mxtrt_fuzz.again import Answer
from mxtrt_fuzz.calls import enlarged, inputs_at, weights_at
from mxtrt_fuzz.execute import Observation, Run
from mxtrt_fuzz.graphs import C_BINDS, Case, Operation
from mxtrt_fuzz.properties import ledger, partition_faults
from mxtrt_fuzz.reference import Reference, quantization_steps
from mxtrt_fuzz.signatures import Failure, Signature
from mxtrt_fuzz.tolerance import ESCALATED, SAMPLES, Limit, limits
from mxtrt_fuzz.values import (
    INPUT_SETS,
    Array,
    Arrays,
    about_equal,
    input_arrays,
    weight_arrays,
)

__all__ = ["Oracle", "Verdict"]

#: Runs a case: in this process, or in an isolated one.
Observe = Callable[[Case], Observation]


@dataclass(slots=True)
class Verdict:
    """What the oracle says of a case.

    Attributes:
        failures: What does not hold, worst first.
        invalid: Why plain MXNet refused the case; empty if it did not.
        elements: Elements of heads that were compared.
        undetermined: Those of them that rounding decides.
        worst: Largest error of mxtrt in units of its limit.
    """

    failures: list[Failure] = field(default_factory=list)
    invalid: str = ""
    elements: int = 0
    undetermined: int = 0
    worst: float = 0.0


class Oracle:
    """Judges cases.

    Args:
        observe: Runs a case; used again to find the operator to blame.
        arrays: Values of variables instead of those of a case's seed, as
            :func:`mxtrt_fuzz.execute.observe` takes them.
    """

    def __init__(self, observe: Observe, arrays: Arrays | None = None) -> None:
        self._observe = observe
        self._arrays: Arrays = arrays or {}

    def limits(
        self, case: Case, samples: int = SAMPLES, *, coarse: bool = False
    ) -> list[list[Limit]]:
        """Limits of the heads, for each set of inputs; ``coarse`` ones are TensorRT's."""
        weights = {n: self._arrays.get(n, a) for n, a in weight_arrays(case).items()}
        turns = []
        for turn in range(INPUT_SETS):
            data = {
                n: self._arrays.get(f"{n}@{turn}", a) for n, a in input_arrays(case, turn).items()
            }
            turns.append(Reference(case, {**weights, **data}, coarse))
        if case.precision == "int8":
            steps = quantization_steps(case, [reference.values() for reference in turns])
            for reference in turns:
                reference.steps = steps
        return [limits(reference, case.heads, samples) for reference in turns]

    def judge(
        self, case: Case, seen: Observation, known: list[list[Limit]] | None = None
    ) -> Verdict:
        """Judge what a case did.

        Args:
            case: The case.
            seen: What it did.
            known: Its limits, if they have been computed already.
        """
        verdict = Verdict(invalid=seen.invalid)
        if seen.invalid:
            return verdict
        if case.story:
            verdict.failures += self._judge_story(case, seen)
            return verdict
        for run in seen.runs:
            self._judge_run(case, run, verdict)
        for symptom in seen.unequal:
            verdict.failures.append(
                _failure(case, "forward", f"unequal_{symptom}", _UNEQUAL[symptom])
            )
        verdict.failures += self._judge_again(case, seen)
        for kind, told in seen.odd.items():
            verdict.failures.append(_failure(case, "forward", f"odd_{kind}", told))
        known = self.limits(case) if known is None else known
        wrong = self._wrong(case, seen, known, verdict)
        if wrong:
            # About to be reported: the engine's limits from more samples, and whom to blame.
            known = self.limits(case, ESCALATED, coarse=seen.coarse)
            wrong = self._wrong(case, seen, known, Verdict())
            verdict.failures += [self._blame(case, failure) for failure in wrong]
        if verdict.failures and case.bind in C_BINDS:
            verdict.failures = self._named(case, verdict.failures)
        verdict.failures.sort(key=lambda failure: -failure.severity)
        return verdict

    def _named(self, case: Case, failures: list[Failure]) -> list[Failure]:
        """The failures of a case in a program in C, whose signatures say so if it is needed."""
        usual = case.replace(bind="bind")
        try:
            known = self.judge(usual, self._observe(usual)).failures
        except Failure as gone:
            known = [gone]
        usual_ones = {failure.signature for failure in known}
        named = []
        for failure in failures:
            signature = failure.signature
            if signature not in usual_ones:
                signature = dataclasses.replace(signature, stage=f"client_{signature.stage}")
            named.append(Failure(signature, failure.detail, failure.severity))
        return named

    def _judge_run(self, case: Case, run: Run, verdict: Verdict) -> None:
        if run.reason:
            stage = "forward" if run.raised else "bind"
            symptom = "error" if run.raised else "left_to_mxnet"
            verdict.failures.append(
                _failure(
                    case, stage, symptom, f"mask {run.mask}: {run.reason}", _suspect(case, run)
                )
            )
            return
        for symptom, detail in partition_faults(case, run):
            verdict.failures.append(_failure(case, "partition", symptom, detail, "graph"))
        for symptom, detail in ledger(case, run):
            verdict.failures.append(_failure(case, "memory", symptom, detail, "graph"))

    def _judge_again(self, case: Case, seen: Observation) -> Iterator[Failure]:
        """The first later call whose answers are beyond their limits."""
        for answer in seen.again:
            call = case.calls[answer.number]
            kind = (
                "_".join(["grown"] * bool(call.grown) + ["written"] * bool(call.written)) or "usual"
            )
            told = f"call {answer.number} ({kind})"
            if failure := self._wrong_again(case, answer, kind, told, coarse=seen.coarse):
                yield failure
                return
            ran, usual = answer.runs
            if ran < usual and case.precision == "fp32":
                detail = f"{told}: {ran} runs of engines where there were {usual}"
                yield _failure(case, "again", f"{kind}_left_to_mxnet", detail)
                return

    def _wrong_again(
        self, case: Case, answer: Answer, kind: str, told: str, *, coarse: bool
    ) -> Failure | None:
        """What is wrong with a later call."""
        plain = answer.plain
        for ours in answer.ours:
            if isinstance(ours, str) or isinstance(plain, str):
                if ours != plain:
                    given = [one if isinstance(one, str) else "an answer" for one in (ours, plain)]
                    detail = f"{told}: {given[0]} where plain MXNet has {given[1]}"
                    return _failure(case, "again", f"{kind}_outcome", detail)
                continue
            if all(about_equal(*pair) for pair in zip(ours, plain, strict=True)):
                continue
            if case.precision == "int8":
                continue  # its ranges are those of other values
            stage = enlarged(case, case.calls[answer.number])
            assert stage is not None
            assert not isinstance(answer.plain, str)
            values = {
                **weights_at(case, answer.number, self._arrays),
                **inputs_at(stage, answer.number, self._arrays),
            }
            names = "again", kind, told
            failure = self._beyond(stage, values, (answer.plain, ours), names, coarse)
            if failure is not None:
                return failure
        return None

    def _beyond(
        self,
        stage: Case,
        values: Arrays,
        answers: tuple[tuple[Array, ...], tuple[Array, ...]],
        told: tuple[str, str, str],
        coarse: bool,
        samples: int = SAMPLES,
    ) -> Failure | None:
        """The first head of a later answer that is beyond its limit.

        Args:
            stage: The case at the sizes of the call.
            values: Of all its variables.
            answers: Plain MXNet's, and one with engines.
            told: Stage and symptom for a signature, and what happened for a person.
            coarse: The limits are TensorRT's.
            samples: Number of noisy evaluations; what is beyond the limits is judged by more.
        """
        plain, ours = answers
        known = limits(Reference(stage, values, coarse), stage.heads, samples)
        for place, limit in enumerate(known):
            dtype = stage.tensor(stage.heads[place]).dtype
            errors = [_error(limit, dtype, outputs, place) for outputs in (plain, ours)]
            for blamed, detail, error in _blamed(errors[0], {"none": errors[1]}):
                if blamed == "reference":  # or MXNet's own mistake, which is repeated
                    continue
                if samples == SAMPLES:  # about to be reported
                    return self._beyond(stage, values, answers, told, coarse, ESCALATED)
                symptom = f"{told[1]}_{'class' if np.isinf(error) else 'value'}"
                signature = Signature(told[0], symptom, blamed, _producer(stage, place), dtype)
                wrong = [ours if blamed == "mxtrt" else plain]
                text = f"{told[2]}, head {place}: {detail}; {_worst(limit, wrong, place)}"
                return Failure(signature, text, error)
        return None

    def _judge_story(self, case: Case, seen: Observation) -> list[Failure]:
        """What does not hold in a story: its first wrong answer, and what else was seen."""
        found = [_failure(case, "story", "left", told) for told in seen.played.wrong]
        for scene in seen.played.scenes:
            what, told = scene.what
            plain, ours = scene.plain, scene.ours
            if isinstance(plain, str) or isinstance(ours, str):
                if isinstance(plain, str) and isinstance(ours, str):
                    continue
                said = [one if isinstance(one, str) else "an answer" for one in (ours, plain)]
                detail = f"{told}, object {scene.who}: {said[0]} where plain MXNet has {said[1]}"
                return [*found, _failure(case, "story", f"{what}_outcome", detail)]
            if case.precision == "int8":
                continue  # its ranges are those of other values
            names = "story", what, f"{told}, object {scene.who}"
            failure = self._beyond(scene.stage, scene.values, (plain, ours), names, seen.coarse)
            if failure is not None:
                return [*found, failure]
        return found

    def _wrong(
        self, case: Case, seen: Observation, known: list[list[Limit]], verdict: Verdict
    ) -> list[Failure]:
        """Answers beyond their limits, one failure for every party blamed."""
        found: dict[str, Failure] = {}
        for turn, heads in enumerate(known):
            for place, limit in enumerate(heads):
                verdict.elements += limit.exact.size
                verdict.undetermined += int(limit.undetermined.sum())
                dtype = case.tensor(case.heads[place]).dtype
                plain = _error(limit, dtype, seen.plain[turn], place)
                answers = {
                    run.mask: _error(limit, dtype, run.outputs[turn], place)
                    for run in seen.runs
                    if run.outputs
                }
                verdict.worst = max([verdict.worst, *answers.values()])
                for blamed, detail, error in _blamed(plain, answers):
                    symptom = "class" if np.isinf(error) else "value"
                    signature = Signature("answer", symptom, blamed, _producer(case, place), dtype)
                    given = [run.outputs[turn] for run in seen.runs if run.outputs]
                    if blamed != "mxtrt":
                        given = [seen.plain[turn]]
                    told = f"head {place}, inputs {turn}: {detail}; {_worst(limit, given, place)}"
                    found.setdefault(blamed, Failure(signature, told, error))
        return list(found.values())

    def _blame(self, case: Case, failure: Failure) -> Failure:
        """The failure with the first operator whose own value is wrong."""
        entries = tuple(
            Entry(index, output)
            for index, node in enumerate(case.nodes)
            if isinstance(node, Operation)
            for output in range(len(node.outputs))
        )
        whole = case.replace(heads=entries).keeping()
        try:
            seen = self._observe(whole)
        except Failure:  # of the run that is to tell whom to blame
            return failure
        if seen.invalid or not seen.plain:
            return failure
        parties: Mapping[str, list[tuple[tuple[Array, ...], ...]]] = {
            "mxtrt": [run.outputs for run in seen.runs if run.outputs],
            "mxnet": [seen.plain],
            "reference": [seen.plain],
        }
        for turn, heads in enumerate(self.limits(whole, coarse=seen.coarse)):
            for place, limit in enumerate(heads):
                dtype = whole.tensor(whole.heads[place]).dtype
                answers = parties[failure.signature.blamed]
                if any(_error(limit, dtype, o[turn], place) > 1 for o in answers):
                    node = whole.nodes[whole.heads[place].node]
                    assert isinstance(node, Operation)
                    old = failure.signature
                    signature = Signature(
                        old.stage, old.symptom, old.blamed, node.op, node.outputs[0].dtype
                    )
                    return Failure(signature, failure.detail, failure.severity)
        return failure


_UNEQUAL = {
    "toggle": "switched off again, the answer is not plain MXNet's to the bit",
    "denied": "with every operator denied, the answer is not plain MXNet's to the bit",
    "rebuild": "a second bind gives other numbers than the first",
    "rebound": "a second bind of equal weights, beside the first, gives other numbers",
    "shared": "a write to the weights of the first bind changes the numbers of the second",
    "reshaped": "after Executor.reshape the old or the new executor gives other numbers",
    "mixed": "a bind of other weights beside the first gives other numbers than on its own",
    "followed": "after a write to its weights a bind gives other numbers than a new one",
    "together": "threads that bind it at once get other numbers, an error or no engine",
    "saved": "the graph saved and loaded gives other numbers",
}


def _error(limit: Limit, dtype: str, outputs: tuple[Array, ...], place: int) -> float:
    if len(outputs) <= place:
        return float("inf")
    if (outputs[place].shape, outputs[place].dtype) != (limit.exact.shape, dtype):
        return float("inf")
    return limit.error(outputs[place])


def _worst(limit: Limit, given: list[tuple[Array, ...]], place: int) -> str:
    """The worst of some answers for a head, in words."""
    arrays = [outputs[place] for outputs in given if len(outputs) > place]
    shapes = [array.shape for array in arrays]
    if {*shapes} != {limit.exact.shape}:
        return f"shapes {shapes} where {limit.exact.shape} is right"
    return limit.worst(max(arrays, key=limit.error))


def _blamed(plain: float, answers: Mapping[str, float]) -> list[tuple[str, str, float]]:
    """Who is wrong, why, and by how much."""
    worst = max(answers, key=lambda mask: answers[mask], default=None)
    if worst is not None and answers[worst] > 1 and plain <= 1:
        return [
            (
                "mxtrt",
                f"under mask {worst} it is {answers[worst]:.3g} limits off where plain MXNet is "
                f"{plain:.3g}",
                answers[worst],
            )
        ]
    if plain > 1:
        agrees = worst is not None and min(answers.values()) > 1
        blamed = "reference" if agrees else "mxnet"
        return [(blamed, f"plain MXNet is {plain:.3g} limits off, mxtrt {dict(answers)}", plain)]
    return []


def _producer(case: Case, place: int) -> str:
    node = case.nodes[case.heads[place].node]
    return node.op if isinstance(node, Operation) else "variable"


def _suspect(case: Case, run: Run) -> str:
    """The operator that an error message names, else the only one, else ``graph``."""
    for node in case.operations:
        if node.name in run.reason.replace("'", " ").replace("_", " ").split():
            return node.op
    return _operator(case)


def _operator(case: Case) -> str:
    return case.operations[0].op if len(case.operations) == 1 else "graph"


def _failure(case: Case, stage: str, symptom: str, detail: str, operator: str = "") -> Failure:
    return Failure(Signature(stage, symptom, "mxtrt", operator or _operator(case)), detail)
