"""How much a campaign does: the profiles."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PROFILES", "Profile"]


@dataclass(frozen=True, slots=True)
class Profile:
    """A profile.

    Attributes:
        examples: Cases to run.
        targeted: Whether Hypothesis looks for larger errors (``target(error / limit)``).
        context: ``cpu`` or ``gpu``: where mxtrt's arrays are.
        exactness: Whether to check what has to be equal to the bit.
        masks: Support masks that every case runs under.
        timeout: Seconds that a case may take: TensorRT builds an engine for every segment.
        repeatable: Two campaigns of one seed run the same cases; no example database is used.
    """

    examples: int
    targeted: bool = False
    context: str = "cpu"
    masks: tuple[str, ...] = ("none", "drawn", "all")
    exactness: bool = True
    timeout: float = 60.0
    repeatable: bool = False


PROFILES = {
    "ci": Profile(examples=200, repeatable=True),
    "gpu": Profile(examples=500, masks=("none", "drawn"), exactness=False, timeout=300),
    "gpu-context": Profile(
        examples=500, context="gpu", masks=("none", "drawn"), exactness=False, timeout=300
    ),
    "nightly": Profile(examples=20_000, targeted=True),
}
