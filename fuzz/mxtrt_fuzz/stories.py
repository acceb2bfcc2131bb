"""Drawing stories: what happens to objects that are bound of one graph.

A story is drawn as a whole and played in another process, which it may crash, and again from a
file: hence plain data and not the rules of a state machine of Hypothesis.
"""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from mxtrt_fuzz import calls, client
from mxtrt_fuzz.generate import cases, hybrid
from mxtrt_fuzz.graphs import BINDS, C_BINDS, STORY_WRITES, Call, Case, Step

__all__ = ["stories"]

#: Operators and objects at a time at the most, and how many steps a story has.
_MOST_OPERATORS, _MOST_OBJECTS = 6, 4
_FEWEST_STEPS, _MOST_STEPS = 6, 15

#: Kinds of steps besides binds, of which a story has some.
_KINDS = ("share", "call", "write", "train", "reload", "drop", "together", "fail")

_RANDOM = ("Dropout", "_npx_dropout", "RNN", "_npx_rnn")

#: One of so many binds is in a program in C.
_RARE = 8


@st.composite
def stories(draw: st.DrawFn) -> Case:
    """Cases with a story of up to fifteen steps."""
    case = draw(cases(_MOST_OPERATORS, ("uniform", "grid"), layers=draw(st.booleans())))
    case = case.replace(bind="bind", calls=(), precision=case.precision.replace("int8", "fp32"))
    teller = _Teller(draw, case)
    for _ in range(draw(st.integers(_FEWEST_STEPS, _MOST_STEPS))):
        teller.tell()
    return case.replace(story=tuple(teller.steps))


class _Teller:
    """Draws steps, and keeps count of the objects that there are."""

    def __init__(self, draw: st.DrawFn, case: Case) -> None:
        self._draw, self._case = draw, case
        self.steps: list[Step] = []
        self._alive: list[int] = []
        self._made = 0
        self._most = draw(st.integers(1, _MOST_OBJECTS))
        # Few kinds in each story: some have one thing happen again and again.
        kinds = draw(st.lists(st.sampled_from(_KINDS), min_size=1, max_size=4, unique=True))
        self._kinds = ["bind", "call", "write", *kinds, *kinds]
        self._names = [v.name for v in case.variables if v.role != "data"]
        blocks = hybrid(case)
        ways = [w for w in BINDS if blocks or not w.startswith(("gluon", "c_cached_op"))]
        if not any(v.role == "data" for v in case.variables):  # there is nothing to call with
            ways = ["bind", "c_bind"]
        self._ways = [way for way in ways if way not in C_BINDS]
        self._ways_in_c = [way for way in ways if way in C_BINDS and way != "c_predict"]
        # Some draw random numbers where they train, and MXNet crashes in some of these.
        self._trains = not any(
            node.op in _RANDOM or ("act_type", "rrelu") in node.attrs for node in case.operations
        )
        self._axes = [
            (v.name, axis, size)
            for v in case.variables
            if v.role == "data"
            for axis, size in enumerate(v.tensor.shape)
        ]

    def tell(self) -> None:
        """One more step."""
        draw = self._draw
        what = draw(st.sampled_from(self._kinds)) if self._alive else "bind"
        if what in ("bind", "share", "reload") and len(self._alive) >= self._most:
            what = "write"
        if (what == "write" and not self._names) or (what == "train" and not self._trains):
            what = "call"
        who = draw(st.sampled_from(self._alive)) if self._alive else 0
        self.steps.append(getattr(self, f"_{what}", self._plain)(what, who))

    def _plain(self, what: str, who: int) -> Step:
        return Step(what, who)

    def _new(self) -> None:
        self._alive.append(self._made)
        self._made += 1

    def _bind(self, what: str, who: int) -> Step:
        draw = self._draw
        ways: Sequence[str] = self._ways
        rare = draw(st.integers(0, _RARE - 1)) == 0  # on every machine, that all draw the same
        if rare and client.available():
            ways = self._ways_in_c
        self._new()
        used = sorted({node.op for node in self._case.operations})
        denied = draw(st.lists(st.sampled_from(used), max_size=1)) if draw(st.booleans()) else []
        return Step(what, draw(st.integers(0, 2)), draw(st.sampled_from(ways)), tuple(denied))

    def _share(self, what: str, who: int) -> Step:
        self._new()
        return Step(what, who)

    _reload = _share

    def _drop(self, what: str, who: int) -> Step:
        self._alive.remove(who)
        return Step(what, who)

    def _call(self, what: str, who: int) -> Step:
        draw = self._draw
        how = draw(st.sampled_from(["", "held"]))
        if not self._axes or draw(st.booleans()):
            return Step(what, who, how)
        name, axis, size = draw(st.sampled_from(self._axes))
        by = draw(st.integers(1, 5))
        alike = tuple((n, a, by) for n, a, s in self._axes if s == size)
        for grown in (alike, ((name, axis, by),)):
            if calls.enlarged(self._case, Call(grown)) is not None:
                return Step(what, who, how, (), grown)
        return Step(what, who, how)

    def _write(self, what: str, who: int) -> Step:
        draw = self._draw
        names = draw(st.sampled_from([*((name,) for name in self._names), tuple(self._names)]))
        return Step(what, who, draw(st.sampled_from(STORY_WRITES)), names)
