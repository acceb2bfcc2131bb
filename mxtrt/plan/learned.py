"""The ranges of input shapes that an engine is built for: learned from those that were seen.

What moved is widened: by half downwards and to the double upwards, so that the number of builds
follows the logarithm of what is asked for.  Wide ranges get several optimization profiles.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from mxtrt.engines.ranges import Profile, Ranges, Symbol
from mxtrt.graph.symbol import Shapes

__all__ = ["Learned", "divided"]

#: Whether one model serves input shapes too.
Fits = Callable[[Shapes], bool]

# The largest shapes of a profile have at most so many times the elements of the smallest, as long
# as there are not more profiles than this.
_WIDEST = 8
_MOST_PROFILES = 4

# By so much an axis is widened on its own where not all can be by the double.
_MARGINS = (2.0, 1.25)

# Input shapes that are remembered one by one, to choose what a profile is the fastest at.
_MOST_SEEN = 16


class Learned:
    """The sizes at which a segment was asked for.

    Args:
        shapes: The first input shapes.

    Attributes:
        smallest: The smallest size of every axis.
        largest: The largest size of every axis.
        recent: The input shapes that were seen last.
    """

    def __init__(self, shapes: Shapes) -> None:
        self.smallest = self.largest = shapes
        self.recent: list[Shapes] = [shapes]
        self._alike: list[Symbol] = [tuple(places) for places in _alike(shapes).values()]

    @classmethod
    def of(cls, data: Any) -> Learned:
        """What :meth:`to_json` wrote.

        Raises:
            ValueError: It wrote something else.
            TypeError: Likewise.
            KeyError: Likewise.
        """
        smallest, largest = _shapes(data["smallest"]), _shapes(data["largest"])
        made = cls(smallest)
        made.largest = largest
        made.recent = [_shapes(shapes) for shapes in data["recent"]]
        made._alike = [tuple((int(i), int(axis)) for i, axis in group) for group in data["alike"]]
        ranks = {tuple(map(len, shapes)) for shapes in (smallest, largest, *made.recent)}
        places = sorted(itertools.chain.from_iterable(made._alike))
        if len(ranks) != 1 or not made.recent or places != sorted(_places(smallest)):
            raise ValueError("its shapes do not fit each other")
        return made

    def to_json(self) -> dict[str, Any]:
        """The same as JSON-ready data."""
        return {
            "smallest": self.smallest,
            "largest": self.largest,
            "recent": self.recent,
            "alike": self._alike,
        }

    def see(self, shapes: Shapes) -> bool:
        """Learn of input shapes; whether they are of the same numbers of axes as the first."""
        if [*map(len, shapes)] != [*map(len, self.smallest)]:
            return False
        self.smallest = _each(min, self.smallest, shapes)
        self.largest = _each(max, self.largest, shapes)
        split: list[Symbol] = []
        for group in self._alike:
            parts: dict[int, list[tuple[int, int]]] = {}
            for i, axis in group:
                parts.setdefault(shapes[i][axis], []).append((i, axis))
            split += [tuple(part) for part in parts.values()]
        self._alike = split
        if shapes in self.recent:
            self.recent.remove(shapes)
        self.recent = [*self.recent, shapes][-_MOST_SEEN:]
        return True

    def symbols(self, tied: Sequence[Symbol] = ()) -> tuple[Symbol, ...]:
        """The axes that moved, together those that moved alike.

        Args:
            tied: Axes that a model takes to be alike, where it does.
        """
        taken = set(itertools.chain.from_iterable(tied))
        free = (tuple(place for place in group if place not in taken) for group in self._alike)
        return tuple(
            group
            for group in (*tied, *free)
            if group and any(self.smallest[i][axis] < self.largest[i][axis] for i, axis in group)
        )

    def ranges(self, tied: Sequence[Symbol], fits: Fits) -> Ranges | None:
        """The ranges that an engine is to be built for, None where nothing moved.

        Args:
            tied: See :meth:`symbols`.
            fits: Whether the model is for input shapes.
        """
        symbols = self.symbols(tied)
        if not symbols:
            return None
        low = self._widened(symbols, self.smallest, _halved, fits)
        high = self._widened(symbols, self.largest, _doubled, fits)
        return divided(low, high, symbols, self.recent, fits)

    def tight(self, tied: Sequence[Symbol]) -> Ranges | None:
        """The ranges of what was seen, as one profile."""
        symbols = self.symbols(tied)
        profile = Profile(self.smallest, self.recent[-1], self.largest)
        return Ranges((profile,), symbols) if symbols else None

    def _widened(
        self,
        symbols: Sequence[Symbol],
        bound: Shapes,
        widened: Callable[..., int],
        fits: Fits,
    ) -> Shapes:
        """Sizes beyond a bound, as far as the segment and its model go."""
        for shapes in (_with(bound, symbols, widened), self._in_step(symbols, bound, widened)):
            if fits(shapes):
                return shapes
        shapes = bound
        for symbol in symbols:  # one may go further than another
            for margin in _MARGINS:
                further = _with(shapes, [symbol], partial(widened, by=margin))
                if fits(further):
                    shapes = further
                    break
        return shapes

    def _in_step(
        self, symbols: Sequence[Symbol], bound: Shapes, widened: Callable[[int], int]
    ) -> Shapes:
        """Sizes beyond a bound where those of an axis are multiples of each other.

        Such are the features of a picture at several scales, added up inside a segment.
        """
        made = [list(shape) for shape in bound]
        for axis in {axis for symbol in symbols for _, axis in symbol}:
            places = [place for symbol in symbols for place in symbol if place[1] == axis]
            base = min((i for i, _ in places), key=lambda i: self.largest[i][axis])
            low, high = self.smallest[base][axis], self.largest[base][axis]
            size = widened(bound[base][axis])
            for i, _ in places:
                slope = (self.largest[i][axis] - self.smallest[i][axis]) / max(high - low, 1)
                step = round(slope * (size - bound[base][axis]))
                made[i][axis] = max(bound[i][axis] + step, 1)
        return _shapes(made)


def divided(
    smallest: Shapes,
    largest: Shapes,
    symbols: tuple[Symbol, ...],
    seen: Sequence[Shapes],
    fits: Fits,
) -> Ranges:
    """Ranges as profiles: several where they are wide, each of which contains those before.

    Args:
        smallest: The smallest size of every axis.
        largest: The largest size of every axis.
        symbols: The axes that vary.
        seen: Input shapes that a profile is to be the fastest at; the last one counts where
            nothing between them is possible.
        fits: Whether the model is for input shapes.
    """
    ratio = _volume(largest) / max(_volume(smallest), 1)
    count = min(max(math.ceil(math.log(max(ratio, 1), _WIDEST) - 1e-9), 1), _MOST_PROFILES)
    profiles: list[Profile] = []
    below = smallest
    for number in range(1, count + 1):
        part = number / count
        cut = largest if number == count else _between(smallest, largest, symbols, part)
        profile = Profile(smallest, cut, cut)
        own = [
            shapes
            for shapes in seen
            if profile.contains(shapes) and not any(p.contains(shapes) for p in profiles)
        ]
        middle = _between(below, cut, symbols, 0.5)
        if own:
            middle = own[-1] if len(own) == 1 else _middle(own, symbols)
        choices = (middle, *reversed(own), cut, *reversed(seen))
        usual = next((s for s in choices if profile.contains(s) and fits(s)), cut)
        if number == count or fits(cut):
            profiles.append(Profile(smallest, usual, cut))
            below = cut
    return Ranges(tuple(profiles), symbols)


def _halved(size: int, by: float = 2) -> int:
    return max(int(size / by), min(size, 1))


def _doubled(size: int, by: float = 2) -> int:
    return math.ceil(size * by)


def _between(low: Shapes, high: Shapes, symbols: Sequence[Symbol], part: float) -> Shapes:
    """Sizes between two, by the logarithm."""
    made = [list(shape) for shape in high]
    for i, axis in itertools.chain.from_iterable(symbols):
        one, other = low[i][axis], high[i][axis]
        made[i][axis] = round(one * (other / max(one, 1)) ** part) if one else other
    return _shapes(made)


def _middle(seen: Sequence[Shapes], symbols: Sequence[Symbol]) -> Shapes:
    """The geometric mean of input shapes."""
    made = [list(shape) for shape in seen[-1]]
    for i, axis in itertools.chain.from_iterable(symbols):
        logs = [math.log(max(shapes[i][axis], 1)) for shapes in seen]
        made[i][axis] = round(math.exp(sum(logs) / len(logs)))
    return _shapes(made)


def _with(shapes: Shapes, symbols: Sequence[Symbol], change: Callable[[int], int]) -> Shapes:
    """Shapes with the sizes of some axes changed."""
    made = [list(shape) for shape in shapes]
    for i, axis in itertools.chain.from_iterable(symbols):
        made[i][axis] = change(shapes[i][axis])
    return _shapes(made)


def _each(choose: Callable[[int, int], int], one: Shapes, other: Shapes) -> Shapes:
    return tuple(
        tuple(map(choose, shape, others)) for shape, others in zip(one, other, strict=True)
    )


def _places(shapes: Shapes) -> Iterator[tuple[int, int]]:
    for i, shape in enumerate(shapes):
        for axis in range(len(shape)):
            yield i, axis


def _alike(shapes: Shapes) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """Axes of different inputs that are of one size.

    Two axes of one input may be of one size by chance, such as those of a picture.
    """
    groups: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for i, shape in enumerate(shapes):
        for axis, size in enumerate(shape):
            groups.setdefault((size, shape[:axis].count(size)), []).append((i, axis))
    return groups


def _volume(shapes: Shapes) -> int:
    return sum(math.prod(shape) for shape in shapes)


def _shapes(data: Any) -> Shapes:
    made = tuple(tuple(shape) for shape in data)
    if any(type(size) is not int or size < 0 for shape in made for size in shape):
        raise ValueError("a size is no number")
    return made
