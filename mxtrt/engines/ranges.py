"""Input shapes that one engine serves: ranges of sizes, as optimization profiles."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mxtrt.graph.symbol import Shapes

__all__ = ["Profile", "Ranges", "Symbol"]

#: Axes that are of one size whenever they vary: each an input and an axis of it.
Symbol = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Profile:
    """Input shapes that kernels are chosen for together.

    Attributes:
        smallest: The smallest size of every axis.
        usual: The sizes that the kernels are the fastest at.
        largest: The largest size of every axis.
    """

    smallest: Shapes
    usual: Shapes
    largest: Shapes

    def contains(self, shapes: Shapes) -> bool:
        """Whether every size lies in its range."""
        if [*map(len, shapes)] != [*map(len, self.largest)]:
            return False
        sizes = zip(*map(_flat, (self.smallest, shapes, self.largest)), strict=True)
        return all(low <= size <= high for low, size, high in sizes)

    @property
    def volume(self) -> int:
        """Elements of all inputs at their largest."""
        return sum(math.prod(shape) for shape in self.largest)


@dataclass(frozen=True, slots=True)
class Ranges:
    """Input shapes that one engine serves.

    Attributes:
        profiles: Parts of them, the largest last, which contains the others.
        symbols: The axes that vary.
    """

    profiles: tuple[Profile, ...]
    symbols: tuple[Symbol, ...]

    @property
    def smallest(self) -> Shapes:
        """The smallest of all."""
        return self.profiles[-1].smallest

    @property
    def usual(self) -> Shapes:
        """What the last profile is the fastest at."""
        return self.profiles[-1].usual

    @property
    def largest(self) -> Shapes:
        """The largest of all."""
        return self.profiles[-1].largest

    def place(self, shapes: Shapes) -> int | None:
        """The tightest profile for input shapes, None for those that are not served."""
        if not self._tied(shapes):
            return None
        fits = (place for place, one in enumerate(self.profiles) if one.contains(shapes))
        return min(fits, key=lambda place: self.profiles[place].volume, default=None)

    def contains(self, shapes: Shapes) -> bool:
        """Whether input shapes are served."""
        return self.place(shapes) is not None

    def varying(self, shapes: Shapes) -> set[int]:
        """The sizes of the axes that vary, at input shapes."""
        return {shapes[i][axis] for symbol in self.symbols for i, axis in symbol}

    def spread(self, count: int) -> Iterator[Shapes]:
        """Input shapes among them, from the smallest on: each axis takes so many sizes in turn.

        They follow one another, so that there is each remainder of a division by a number up to
        ``count``.  Axes of different symbols are at different sizes at a time.
        """
        for step in range(count):
            shapes = [list(shape) for shape in self.smallest]
            for number, symbol in enumerate(self.symbols):
                for i, axis in symbol:
                    span = self.largest[i][axis] - self.smallest[i][axis] + 1
                    shapes[i][axis] += (step + 7 * number) % min(count, span)
            yield tuple(map(tuple, shapes))

    def describe(self, names: Sequence[str]) -> str:
        """The ranges in words: ``data 1x3x(80-1280)x(80-1280)``."""
        texts = []
        for name, low, high in zip(names, self.smallest, self.largest, strict=True):
            axes = (
                str(one) if one == other else f"({one}-{other})"
                for one, other in zip(low, high, strict=True)
            )
            texts.append(f"{name} {'x'.join(axes)}")
        return ", ".join(texts)

    def _tied(self, shapes: Shapes) -> bool:
        if [*map(len, shapes)] != [*map(len, self.largest)]:
            return False
        return all(len({shapes[i][axis] for i, axis in symbol}) == 1 for symbol in self.symbols)


def _flat(shapes: Shapes) -> list[int]:
    return list(itertools.chain.from_iterable(shapes))
