"""Playing a story: what happens to the objects that are bound of one graph.

Every object with engines has a twin in plain MXNet, to which the same happens.  After every step
each object that is left answers once more, with new numbers.
"""

from __future__ import annotations

import contextlib
import gc
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import mxtrt
from mxtrt.plan.plan import live_plans
from mxtrt.system.threads import once
from mxtrt_fuzz.again import Outputs, is_taken, outcome
from mxtrt_fuzz.binds import Bound, Executors, Parts, bind, copied, ready, runs
from mxtrt_fuzz.calls import MOST_AXES, NO_WRITES, enlarged
from mxtrt_fuzz.client import Client
from mxtrt_fuzz.graphs import C_BINDS, Call, Case, Step
from mxtrt_fuzz.values import Array, about_equal, fill

__all__ = ["Played", "Scene", "play"]

#: Seconds in which what is built in the background has to be there.
_BUILT = 60.0

#: Seconds without a write after which engines have to answer again.
_BACK = 10.0

#: Sets of values: of weights at a bind, of what is written, and of inputs.
_WEIGHTS, _WRITES, _INPUTS = 1000, 2000, 3000


@dataclass(frozen=True, slots=True)
class Scene:
    """An answer that is not plain MXNet's to rounding.

    Attributes:
        step: After which step of the story, counted from 0.
        who: Which object.
        what: What the step was, and for a person how.
        stage: The case at the sizes of the call.
        values: Of all its variables.
        plain: Plain MXNet's heads, or the exception that it raised.
        ours: With engines.
    """

    step: int
    who: int
    what: tuple[str, str]
    stage: Case
    values: dict[str, Array]
    plain: Outputs | str
    ours: Outputs | str


@dataclass(slots=True)
class _Object:
    """Something that was bound, and its twin.

    Attributes:
        way: How it is bound.
        ours: With engines.
        plain: In plain MXNet.
        values: Of its weights and states; those of objects that share arrays are the same.
        options: Options of the bind.
        usual: How many engines run in a call; None once one of them failed.
    """

    way: str
    ours: Bound
    plain: Bound
    values: dict[str, Array]
    options: dict[str, Any]
    usual: int | None = None
    held: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Played:
    """What came of a story.

    Attributes:
        answers: How many answers were compared.
        scenes: Those that are not plain MXNet's to rounding.
        wrong: What else does not hold, in words.
    """

    answers: int = 0
    scenes: list[Scene] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def play(case: Case, parts: Parts, options: Mapping[str, Any]) -> Played:
    """Play the story of a case.

    Args:
        case: The case.
        parts: Its symbol and context, and inputs of its shapes.
        options: Options of all binds.
    """
    _freeze()
    before = len(_plans())
    playing = _Playing(case, parts, options)
    for number, step in enumerate(case.story):
        playing.play(number, step)
    playing.end()
    played = Played(playing.answers, playing.scenes, playing.wrong)
    del playing
    mxtrt.ready(timeout=_BUILT)
    left = len(_plans()) - before
    if left > 0:
        played.wrong.append(f"{left} plans of engines are left where nothing is bound any more")
    return played


@once
def _freeze() -> None:
    """Have collections look at what comes from here on: the packages take a tenth of a second."""
    gc.collect()
    gc.freeze()


def _plans() -> list[Any]:
    gc.collect()
    return [plan for plan in live_plans() if plan.nodes]


class _Playing:
    def __init__(self, case: Case, parts: Parts, options: Mapping[str, Any]) -> None:
        self._case, self._parts, self._mx = case, parts, parts.mx
        self._options = dict(options)
        self._variables = {v.name: v for v in case.variables}
        self._objects: dict[int, _Object] = {}
        self._made = self._number = self._turn = 0
        self.answers = 0
        self.scenes: list[Scene] = []
        self.wrong: list[str] = []

    def play(self, number: int, step: Step) -> None:
        """A step, and what all objects answer after it."""
        what = (step.what, f"step {number}, {step.what} {step.how} of object {step.who}")
        self._number = self._made  # of what the step makes, whether or not it can
        self._made += step.what in ("bind", "share", "reload")
        done: Callable[[Step], bool] = getattr(self, f"_{step.what}")
        if not done(step):
            return
        for who, one in self._objects.items():
            called = step.what == "call" and who == step.who
            stage = (called and self._stage(step, one)) or self._case
            held = called and step.how == "held"
            inputs = self._inputs(stage)
            plain = self._plainly(one, inputs, held)
            self._see(number, who, what, stage, inputs, plain, self._ours(one, inputs, held))

    def end(self) -> None:
        """Engines answer again where nothing was written for a while."""
        for who, one in self._objects.items():
            # A CachedOp that is called with other arrays of weights is left to MXNet.
            if not one.usual or getattr(one.ours, "moved", False):
                continue
            until = time.monotonic() + _BACK
            while not self._runs(one) and time.monotonic() < until:
                ready(one.ours, _BUILT)
            inputs = self._inputs(self._case)
            what = ("end", "at the end")
            plain = self._plainly(one, inputs, False)
            self._see(-1, who, what, self._case, inputs, plain, self._ours(one, inputs, False))
            if not self._runs(one):
                self.wrong.append(f"object {who}, bound by {one.way}, is left to MXNet at the end")
        self._objects.clear()

    def _runs(self, one: _Object) -> bool:
        """Whether engines run in a call as often as in the first ones."""
        before = runs(one.ours)
        self._ours(one, self._inputs(self._case), False)
        return one.usual is None or runs(one.ours) - before >= one.usual

    # -- steps -----------------------------------------------------------------------------

    def _bind(self, step: Step) -> bool:
        variables = [v for v in self._case.variables if v.role != "data"]
        turn = _WEIGHTS + step.who if step.who else 0
        values = {v.name: fill(v, self._case.seed, turn) for v in variables}
        self._add(step.how, values, step.names)
        return True

    def _add(self, way: str, values: dict[str, Array], denied: tuple[str, ...]) -> None:
        options = {**self._options, "deny_ops": denied}
        symbol = self._mx.sym.load_json(self._parts.symbol.tojson(remove_amp_cast=False))
        parts = [
            Parts(
                self._mx,
                self._parts.context,
                symbol,
                self._parts.inputs,
                self._ndarrays({n: a for n, a in values.items() if not self._is_state(n)}),
                self._ndarrays({n: a for n, a in values.items() if self._is_state(n)}),
            )
            for _ in range(2)
        ]
        with mxtrt.options(enabled=False):
            plain = bind("bind" if way in ("optimize_for", "pickled") else way, parts[0])
        with mxtrt.options(**options):
            ours = bind(way, parts[1])
        self._keep(_Object(way, ours, plain, values, options))

    def _keep(self, one: _Object) -> None:
        self._objects[self._number] = one
        # Gluon binds at its first call.
        self._ours(one, self._inputs(self._case), False)
        ready(one.ours, _BUILT)
        before = runs(one.ours)
        self._ours(one, self._inputs(self._case), False)
        one.usual = runs(one.ours) - before

    def _is_state(self, name: str) -> bool:
        return self._variables[name].role == "aux"

    def _share(self, step: Step) -> bool:
        """Another executor on the arrays of an object."""
        one = self._objects.get(step.who)
        if one is None or not hasattr(one.ours, "arrays") or one.way in NO_WRITES:
            return False
        made = []
        for bound, options in ((one.plain, {"enabled": False}), (one.ours, one.options)):
            arrays = bound.arrays  # type: ignore[attr-defined]
            parts = Parts(
                self._mx,
                self._parts.context,
                self._parts.symbol,
                self._parts.inputs,
                {n: arrays[n] for n in one.values if not self._is_state(n)},
                {n: arrays[n] for n in one.values if self._is_state(n)},
            )
            with mxtrt.options(**options):
                made.append(bind("bind", parts))
        plain, ours = made
        self._keep(_Object("bind", ours, plain, one.values, one.options))
        return True

    def _call(self, step: Step) -> bool:
        return step.who in self._objects

    def _write(self, step: Step) -> bool:
        one = self._objects.get(step.who)
        if one is None or one.way in NO_WRITES or not one.values:
            return False
        self._turn += 1
        known = {name: self._variables[name] for name in step.names if name in one.values}
        new = {n: fill(v, self._case.seed, _WRITES + self._turn) for n, v in known.items()}
        if step.how == "row":
            new = {name: array for name, array in new.items() if 0 < array.ndim <= MOST_AXES}
        for bound, options in ((one.plain, {"enabled": False}), (one.ours, one.options)):
            with mxtrt.options(**options):
                _written(self._mx, bound, self._ndarrays(new), step.how)
        for name, array in new.items():
            if step.how == "row":
                whole = one.values[name].copy()
                whole[:1] = array[:1]
                array = whole
            one.values[name] = array
        return bool(new)

    def _train(self, step: Step) -> bool:
        """A forward for training, which changes running means."""
        one = self._objects.get(step.who)
        if one is None or not hasattr(one.ours, "train") or one.way in NO_WRITES:
            return False
        inputs = self._inputs(self._case)
        for bound, options in ((one.plain, {"enabled": False}), (one.ours, one.options)):
            with mxtrt.options(**options), contextlib.suppress(self._mx.MXNetError):
                bound.train(self._ndarrays(inputs))  # type: ignore[attr-defined]
        arrays = one.plain.arrays  # type: ignore[attr-defined]
        for name in one.values:
            one.values[name] = arrays[name].asnumpy()
        return True

    def _reload(self, step: Step) -> bool:
        """Another executor, of a symbol and parameters that were saved and loaded."""
        one = self._objects.get(step.who)
        if one is None:
            return False
        self._add("bind", dict(one.values), one.options["deny_ops"])
        return True

    def _drop(self, step: Step) -> bool:
        if self._objects.pop(step.who, None) is None:
            return False
        gc.collect()
        return True

    def _together(self, step: Step) -> bool:
        """All objects of this process are called at once."""
        calls = {
            who: (one, self._inputs(self._case))
            for who, one in self._objects.items()
            if not isinstance(one.ours, Client)
        }
        if len(calls) < 2:
            return False
        answers: dict[int, Outputs | str] = {}
        gate = threading.Barrier(len(calls))

        def work(who: int, one: _Object, inputs: dict[str, Array]) -> None:
            gate.wait()
            answers[who] = self._ours(one, inputs, False)

        threads = [threading.Thread(target=work, args=(w, *call)) for w, call in calls.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for who, (one, inputs) in calls.items():
            what = ("together", f"object {who} called with {len(calls) - 1} others at once")
            plain = self._plainly(one, inputs, False)
            self._see(-1, who, what, self._case, inputs, plain, answers[who])
        return True

    def _fail(self, step: Step) -> bool:
        """All engines fail; MXNet answers for those that it is behind."""
        alone = (*NO_WRITES, *C_BINDS)
        if not self._objects or any(one.way in alone for one in self._objects.values()):
            return False
        for plan in live_plans():
            for node in plan.nodes:
                node.retire("the story says so")
        for one in self._objects.values():
            one.usual = None
        return True

    # -- answers ---------------------------------------------------------------------------

    def _stage(self, step: Step, one: _Object) -> Case | None:
        """The case at the sizes of a call; None where MXNet does not take them."""
        if not step.grown:
            return None
        stage = enlarged(self._case.replace(story=()), Call(step.grown))
        if stage is None:
            return None
        values = {**one.values, **self._inputs(stage)}
        return stage if is_taken(self._mx, stage, values) else None

    def _inputs(self, stage: Case) -> dict[str, Array]:
        """New numbers, at some sizes."""
        self._turn += 1
        data = (v for v in stage.variables if v.role == "data")
        return {v.name: fill(v, stage.seed, _INPUTS + self._turn, stage.lane) for v in data}

    def _plainly(self, one: _Object, inputs: Mapping[str, Array], held: bool) -> Outputs | str:
        with mxtrt.options(enabled=False):
            return outcome(one.plain, self._given(one, 0, inputs, held))

    def _ours(self, one: _Object, inputs: Mapping[str, Array], held: bool) -> Outputs | str:
        with mxtrt.options(**one.options):
            return outcome(one.ours, self._given(one, 1, inputs, held))

    def _given(
        self, one: _Object, side: int, inputs: Mapping[str, Array], held: bool
    ) -> dict[str, Any]:
        """Inputs as arrays of MXNet's: new ones, or those of the call before, written to."""
        while len(one.held) < 2:
            one.held.append({})
        kept = one.held[side]
        fits = kept and all(kept[name].shape == array.shape for name, array in inputs.items())
        if not (held and fits):
            one.held[side] = made = self._ndarrays(inputs)
            return made
        for name, array in inputs.items():
            kept[name]._sync_copyfrom(np.ascontiguousarray(array))
        return kept

    def _see(
        self,
        number: int,
        who: int,
        what: tuple[str, str],
        stage: Case,
        inputs: Mapping[str, Array],
        plain: Outputs | str,
        ours: Outputs | str,
    ) -> None:
        self.answers += 1
        if _alike(plain, ours):
            return
        values = {**self._objects[who].values, **inputs}
        self.scenes.append(Scene(number, who, what, stage, values, plain, ours))

    def _ndarrays(self, arrays: Mapping[str, Array]) -> dict[str, Any]:
        context = self._parts.context
        return {name: copied(self._mx, context, array) for name, array in arrays.items()}


def _written(mx: Any, bound: Bound, values: Mapping[str, Any], how: str) -> None:
    """Write to weights in one of :data:`mxtrt_fuzz.graphs.STORY_WRITES`."""
    arrays = getattr(bound, "arrays", None)
    if arrays is None or how not in ("view", "operator", "thread"):
        usual = "set" if isinstance(bound, Executors) or arrays is None else "assign"
        bound.write(values, usual if how in ("view", "operator", "thread") else how)
        return
    for name, value in values.items():
        if how == "view":
            arrays[name].reshape((-1,))[:] = value.reshape((-1,))
        elif how == "operator":
            mx.nd.identity(value, out=arrays[name])
        else:
            thread = threading.Thread(target=arrays[name].__setitem__, args=(slice(None), value))
            thread.start()
            thread.join()


def _alike(plain: Outputs | str, ours: Outputs | str) -> bool:
    """Whether answers differ by roundings at the most."""
    if isinstance(plain, str) or isinstance(ours, str) or len(plain) != len(ours):
        return False
    return all(about_equal(*pair) for pair in zip(ours, plain, strict=True))
