"""Cases of the fuzzer, run without a process of their own."""

from __future__ import annotations

from mxtrt_fuzz.execute import Observation, Setup, observe
from mxtrt_fuzz.graphs import Case
from mxtrt_fuzz.values import Arrays


class InProcess:
    """Runs cases in this process."""

    def __init__(self, setup: Setup | None = None) -> None:
        self.setup = setup or Setup()
        self._pending: tuple[Case, Arrays | None] | None = None

    def submit(self, case: Case, arrays: Arrays | None = None) -> None:
        """Remember the case."""
        self._pending = case, arrays

    def result(self) -> Observation:
        """Run it."""
        assert self._pending is not None
        case, arrays = self._pending
        return observe(case, self.setup, arrays)

    def __call__(self, case: Case) -> Observation:
        """Run a case."""
        return observe(case, self.setup)
