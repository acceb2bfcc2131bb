"""Writes ``docs/operators.md`` from the registry: ``python -m mxtrt.convert.ops.document``.

What a converter refuses is read off its source: every reason that it, or a function of
``mxtrt.convert.ops`` that it calls, gives to ``Call.require`` or to ``Unsupported``.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FunctionType
from typing import Any

from mxtrt.convert.ops import registry
from mxtrt.convert.ops.left import LEFT
from mxtrt.convert.ops.slower import RULES

__all__ = ["document"]

_HEAD = """\
# Operators

Written by `python -m mxtrt.convert.ops.document` from the converters in `mxtrt/convert/ops/`; do
not edit.

Names are MXNet's, as symbols hold them. A converter emits ONNX of opset 17, which ONNX Runtime and
TensorRT 8.5 and later read, or of the later one that is named, where the engine has its operators;
what TensorRT's parser refuses nevertheless stays in MXNet, and the report has its words. *Dtypes*
are those of the inputs and outputs: "float32" for what is computed, "numbers" (float32, int8,
uint8, int32 and int64) for what is moved, "several" where the converter says more. A node stays in
MXNet for a reason of the last column, in which … stands for what was seen, and wherever a shape is
unknown at bind or has a zero.
"""

_SLOWER = """
## Operators that stay in MXNet on a CPU

ONNX Runtime computes them slower there than MXNet does (`mxtrt/convert/ops/slower.py`); with
TensorRT, in float16 graphs and where `allow_ops` names them they go into engines.

| times as long | operator | when |
|---|---|---|
"""


def document() -> str:
    """The text of ``docs/operators.md``."""
    converters: dict[Callable[..., None], list[str]] = defaultdict(list)
    on_gpu: dict[Callable[..., None], list[str]] = defaultdict(list)
    for name, entry in registry().items():
        converters[entry.convert].append(name)
        if entry.not_on_gpu:
            on_gpu[entry.convert].append(f"in TensorRT {entry.not_on_gpu}")
    families: dict[str, list[str]] = defaultdict(list)
    for function, names in converters.items():
        cells = (
            ", ".join(f"`{name}`" for name in sorted(names)),
            _first_sentence(function.__doc__),
            _dtypes(function),
            "; ".join(dict.fromkeys([*_reasons(function, set()), *on_gpu[function]])),
        )
        line = " | ".join(cell.replace("|", r"\|") for cell in cells)
        families[function.__module__].append(f"| {line} |")
    parts = [_HEAD]
    for module in sorted(families):
        parts.append(f"\n## {module.rpartition('.')[2]}\n\n")
        parts.append("| operator | ONNX | dtypes | stays in MXNet |\n|---|---|---|---|\n")
        parts.append("\n".join(sorted(families[module])) + "\n")
    parts.append(_SLOWER)
    for name, rules in RULES.items():
        for rule in rules:
            parts.append(f"| {rule.factor} | `{name}` | {_first_sentence(rule.holds.__doc__)} |\n")
    parts.append("\n## Operators that stay in MXNet\n\n| operator | reason |\n|---|---|\n")
    for reason in dict.fromkeys(LEFT.values()):
        patterns = ", ".join(f"`{name}`" for name, why in LEFT.items() if why == reason)
        parts.append(f"| {patterns} | {reason} |\n")
    return "".join(parts)


def _first_sentence(text: str | None) -> str:
    paragraph = " ".join((text or "").split("\n\n")[0].split())
    return paragraph.split(". ")[0].rstrip(".").replace("``", "`")


def _tree(function: Any) -> ast.AST:
    return ast.parse(textwrap.dedent(inspect.getsource(function)))


def _calls(function: Any) -> Iterator[tuple[str, ast.Call]]:
    """Every call in a function, with the last part of what is called."""
    for node in ast.walk(_tree(function)):
        if isinstance(node, ast.Call):
            name = node.func
            yield (name.attr if isinstance(name, ast.Attribute) else getattr(name, "id", "")), node


def _helpers(function: Any) -> Iterator[Any]:
    """Functions of this package, other than those of Call, that a function calls by name."""
    for name, node in _calls(function):
        found = function.__globals__.get(name) if isinstance(node.func, ast.Name) else None
        if isinstance(found, FunctionType) and found.__module__.startswith("mxtrt.convert.ops"):
            yield found


def _reasons(function: Any, seen: set[Any]) -> Iterator[str]:
    seen.add(function)
    for name, node in _calls(function):
        if name == "require" and len(node.args) == 2:
            yield _text(node.args[1])
        elif name == "Unsupported" and node.args:
            yield _text(node.args[0])
    for helper in _helpers(function):
        if helper not in seen:
            yield from _reasons(helper, seen)


def _text(node: ast.expr) -> str:
    """A string literal; whatever an f-string puts in is an ellipsis."""
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) for part in node.values)
    return str(node.value) if isinstance(node, ast.Constant) else "…"


def _dtypes(function: Any) -> str:
    called = {name for part in (function, *_helpers(function)) for name, _ in _calls(part)}
    if "require_arithmetic" in called:
        return "float32, int32, int64"
    if "require_floats" in called:
        return "float32"
    return "numbers" if "require_numbers" in called else "several"


if __name__ == "__main__":
    path = Path(__file__).parents[3] / "docs" / "operators.md"
    path.parent.mkdir(exist_ok=True)
    path.write_text(document())
