"""How many models of a fleet run wholly in engines, and which operators stop the others.

Only the names of operators are looked at: a converter may still refuse a node for its attributes,
its dtypes or its shapes, which :func:`mxtrt.inspect` tells of one model.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mxtrt.convert.ops import registry
from mxtrt.convert.ops.left import reason
from mxtrt.errors import GraphError
from mxtrt.graph.symbol import Graph

__all__ = ["Blocker", "Coverage", "ModelOps", "coverage", "read_models"]

_GIVE = "give a folder of *-symbol.json files or a .jsonl file of operator histograms"


@dataclass(frozen=True, slots=True)
class ModelOps:
    """The operators of a model.

    Attributes:
        name: What the model is called.
        ops: How many nodes of each operator it has, by MXNet name.
        models: How many models are like it.
    """

    name: str
    ops: Mapping[str, int]
    models: int = 1


@dataclass(frozen=True, slots=True)
class Blocker:
    """An operator that stays in MXNet.

    Attributes:
        op: MXNet name of the operator.
        models: How many models have it.
        alone: In how many of them it is the only one that stays.
        nodes: How many nodes of it all models have.
        reason: Why it stays.
    """

    op: str
    models: int
    alone: int
    nodes: int
    reason: str


@dataclass(frozen=True, slots=True)
class Coverage:
    """What converters take of a fleet of models.

    Attributes:
        models: How many models there are.
        covered: How many of them have a converter for every operator.
        nodes: How many operator nodes all models have.
        nodes_covered: How many of them have a converter.
        blockers: Operators without one, those that stop most models first.
    """

    models: int
    covered: int
    nodes: int
    nodes_covered: int
    blockers: tuple[Blocker, ...]

    @property
    def share(self) -> float:
        """The part of the models that is fully covered."""
        return self.covered / self.models

    def to_dict(self) -> dict[str, Any]:
        """The coverage as JSON-ready data."""
        return {**dataclasses.asdict(self), "share": self.share}


def coverage(models: Iterable[ModelOps]) -> Coverage:
    """Count what converters take, by the names of operators.

    Dropout and the heads of losses count as covered: they have converters, and do nothing or
    almost nothing at inference.

    Args:
        models: At least one model.

    Raises:
        GraphError: There is no model.
    """
    total = covered = nodes = taken = 0
    found: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for model in models:
        left = [op for op in model.ops if op not in registry()]
        total += model.models
        covered += 0 if left else model.models
        nodes += sum(model.ops.values()) * model.models
        taken += sum(n for op, n in model.ops.items() if op in registry()) * model.models
        for op in left:
            found[op]["models"] += model.models
            found[op]["alone"] += model.models if len(left) == 1 else 0
            found[op]["nodes"] += model.ops[op] * model.models
    if not total:
        raise GraphError("there is no model to look at")
    blockers = [
        Blocker(op, c["models"], c["alone"], c["nodes"], reason(op)) for op, c in found.items()
    ]
    blockers.sort(key=lambda blocker: (-blocker.models, -blocker.alone, blocker.op))
    return Coverage(total, covered, nodes, taken, tuple(blockers))


def read_models(path: Path) -> list[ModelOps]:
    """The operators of the models in a file or folder.

    Args:
        path: A ``.jsonl`` file with lines such as ``{"model": "net", "ops": {"Convolution": 3}}``,
            in which ``"models": 2`` may say that a line stands for two models; or a folder, in
            which (and in whose folders) every ``*-symbol.json`` is a model.

    Raises:
        GraphError: The path cannot be read, holds no model, or holds something else.
    """
    try:
        if path.is_dir():
            models = [_read_symbol(file) for file in sorted(path.rglob("*-symbol.json"))]
            wanted = "no *-symbol.json file"
        elif path.suffix == ".jsonl":
            models = list(_read_lines(path))
            wanted = "no line"
        else:
            found = "neither a folder nor a .jsonl file" if path.exists() else "not there"
            raise GraphError(f"{path} is {found}; {_GIVE}")
    except (OSError, UnicodeDecodeError) as error:
        raise GraphError(f"{path} cannot be read: {error}; {_GIVE}") from None
    if not models:
        raise GraphError(f"{path} has {wanted}; {_GIVE}")
    return models


def _read_symbol(path: Path) -> ModelOps:
    try:
        graph = Graph.from_json(path.read_text())
    except GraphError as error:
        raise GraphError(f"the symbol file {path} cannot be used: {error}") from None
    ops = Counter(node.op for node in graph.nodes if not node.is_variable)
    return ModelOps(path.name.removesuffix("-symbol.json"), ops)


def _read_lines(path: Path) -> Iterator[ModelOps]:
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            ops = {str(op): int(count) for op, count in row["ops"].items()}
            yield ModelOps(str(row["model"]), ops, int(row.get("models", 1)))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise GraphError(
                f"line {number} of {path} is no operator histogram ({type(error).__name__}: "
                f'{error}), expected such as {{"model": "net", "ops": {{"Convolution": 3}}}}'
            ) from None
