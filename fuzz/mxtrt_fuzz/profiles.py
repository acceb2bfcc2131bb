"""How much a campaign does: the profiles."""

from __future__ import annotations

from dataclasses import dataclass, replace

__all__ = ["PROFILES", "Profile"]


@dataclass(frozen=True, slots=True)
class Profile:
    """A profile.

    Attributes:
        examples: Cases to run.
        targeted: Whether Hypothesis looks for larger errors (``target(error / limit)``).
        engine: What is hunted, unless somebody asks for another.
        context: ``cpu`` or ``gpu``: where mxtrt's arrays are.
        exactness: Whether to check what has to be equal to the bit.
        masks: Support masks that every case runs under.
        timeout: Seconds that a case may take: TensorRT builds an engine for every segment, after
            those that others asked for before.
        least: Operators of the smallest graph that is worth running: Hypothesis draws small ones
            first, and each takes seconds in TensorRT's builder.
        shrink: Whether Hypothesis makes failures smaller during the hunt, which takes many cases:
            not where each takes seconds.
        repeatable: Two campaigns of one seed run the same cases; no example database is used.
        stories: Whether the cases are stories (:mod:`mxtrt_fuzz.stories`).
    """

    examples: int
    targeted: bool = False
    engine: str = "auto"
    context: str = "cpu"
    masks: tuple[str, ...] = ("none", "drawn", "all")
    exactness: bool = True
    timeout: float = 60.0
    least: int = 1
    shrink: bool = True
    repeatable: bool = False
    stories: bool = False


_ON_GPU = Profile(
    500,
    engine="tensorrt",
    masks=("none", "drawn"),
    exactness=False,
    timeout=600,
    least=4,
    shrink=False,
)

PROFILES = {
    "ci": Profile(examples=200, repeatable=True),
    "gpu": _ON_GPU,
    "gpu-context": replace(_ON_GPU, context="gpu"),
    "nightly": Profile(examples=20_000, targeted=True),
    "stories": Profile(examples=300, repeatable=True, stories=True),
}
