"""Making a failing case smaller, as a graph: what Hypothesis' shrinker leaves, this takes out.

Passes, until none helps: fewer heads, the graph cut after a node, a node deleted and its readers
rewired, a node replaced by an input, simpler circumstances, smaller dimensions.  A candidate
counts if it fails with the same signature.
"""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Callable, Iterator

from mxtrt.graph.symbol import Entry
from mxtrt_fuzz.graphs import Case, Node, Operation, Step, Tensor, Variable
from mxtrt_fuzz.specs import Attributes, specs, whole

__all__ = ["reduce_case", "retyped"]

#: Attributes that repeat a dimension of the weights or the output.
_SIZES = ("num_filter", "num_hidden")


def reduce_case(case: Case, fails: Callable[[Case], bool], budget: int = 400) -> Case:
    """The smallest case found that still fails.

    Args:
        case: A case that fails.
        fails: Whether a case fails in the same way.
        budget: Number of candidates to try.
    """
    tried: set[Case] = {case}
    passes = (
        _fewer_steps,
        _fewer_heads,
        _truncated,
        _without_a_node,
        _with_an_input,
        _plainer,
        _smaller,
    )
    progress = True
    while progress and budget > 0:
        progress = False
        for make in passes:
            again = True
            while again and budget > 0:
                again = False
                for candidate in make(case):
                    candidate = whole(candidate)
                    if candidate in tried or budget <= 0:
                        continue
                    tried.add(candidate)
                    budget -= 1
                    if fails(candidate):
                        case, progress, again = candidate, True, True
                        break
    return case


def retyped(case: Case) -> Case | None:
    """The case with the shapes of its operators worked out anew; None where they do not fit."""
    nodes: list[Node] = []
    for node in case.nodes:
        if isinstance(node, Operation):
            known = Case(tuple(nodes), ())
            try:
                inputs = [known.tensor(entry) for entry in node.inputs]
                spec = specs()[node.op]
                outputs = spec.tensors(Attributes(node.attrs), inputs)
            except (ValueError, IndexError, KeyError, TypeError, ZeroDivisionError):
                return None
            if any(min(tensor.shape, default=1) < 1 for tensor in outputs):
                return None
            node = dataclasses.replace(node, outputs=outputs)
        nodes.append(node)
    made = case.replace(nodes=tuple(nodes))
    try:  # an operator may have fewer outputs now
        for head in made.heads:
            made.tensor(head)
    except IndexError:
        return None
    return made


def _fewer_steps(case: Case) -> Iterator[Case]:
    """A story without its end, without a step, or with a simpler one; a step is left at least."""
    story = case.story
    for end in range(1, len(story)):
        yield case.replace(story=story[:end])
    for place, step in enumerate(story):
        rest = story[:place], story[place + 1 :]
        if len(story) > 1:
            yield case.replace(story=rest[0] + rest[1])
        simpler = [
            dataclasses.replace(step, grown=()),
            dataclasses.replace(step, names=step.names[:1]),
        ]
        if step.what == "bind":
            simpler.append(Step("bind", step.who, "bind"))
        if step.what == "write":
            simpler.append(dataclasses.replace(step, how="assign"))
        for changed in simpler:
            if changed != step:
                yield case.replace(story=(*rest[0], changed, *rest[1]))


def _fewer_heads(case: Case) -> Iterator[Case]:
    if len(case.heads) > 1:
        for place in range(len(case.heads)):
            yield case.replace(heads=(case.heads[place],)).keeping()
        for place in range(len(case.heads)):
            yield case.replace(heads=case.heads[:place] + case.heads[place + 1 :]).keeping()


def _truncated(case: Case) -> Iterator[Case]:
    """One operator's output as the only head."""
    for index, node in enumerate(case.nodes):
        if isinstance(node, Operation) and (index, 0) != case.heads[0]:
            yield case.replace(heads=(Entry(index),)).keeping()


def _without_a_node(case: Case) -> Iterator[Case]:
    """An operator deleted, its readers given one of its inputs of the same type."""
    for index, node in enumerate(case.nodes):
        if not isinstance(node, Operation):
            continue
        for entry in dict.fromkeys(node.inputs):
            producer = case.nodes[entry.node]
            if isinstance(producer, Variable) and producer.role == "aux":
                continue  # MXNet knows a state by the operator that reads it
            moved = retyped(_rewired(case, index, entry).keeping())
            if moved is not None:
                yield moved


def _with_an_input(case: Case) -> Iterator[Case]:
    """An operator replaced by a variable of its output's type."""
    for index, node in enumerate(case.nodes):
        if isinstance(node, Operation) and len(node.outputs) == 1:
            variable = Variable(f"{node.name}_value", node.outputs[0])
            nodes = (*case.nodes[:index], variable, *case.nodes[index + 1 :])
            candidate = case.replace(nodes=nodes).keeping()
            if candidate.operations:
                yield candidate


def _rewired(case: Case, gone: int, instead: Entry) -> Case:
    def move(entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
        return tuple(instead if entry.node == gone else entry for entry in entries)

    nodes = tuple(
        dataclasses.replace(node, inputs=move(node.inputs)) if isinstance(node, Operation) else node
        for node in case.nodes
    )
    return case.replace(nodes=nodes, heads=move(case.heads))


def _plainer(case: Case) -> Iterator[Case]:
    """Simpler circumstances: bind, lane, mask, seed, attributes."""
    for changes in (
        {"bind": "bind"},
        {"lane": "uniform"},
        {"precision": "fp32"},
        {"inline": False},
        {"denied": ()},
        {"seed": 0},
        {"calls": ()},
    ):
        if any(getattr(case, key) != value for key, value in changes.items()):
            yield case.replace(**changes)
    yield from _fewer_calls(case)
    for op in case.denied:
        yield case.replace(denied=tuple(other for other in case.denied if other != op))
    for index, node in enumerate(case.nodes):
        if isinstance(node, Operation):
            for key, _ in node.attrs:
                attrs = tuple(item for item in node.attrs if item[0] != key)
                changed = dataclasses.replace(node, attrs=attrs)
                nodes = (*case.nodes[:index], changed, *case.nodes[index + 1 :])
                plainer = retyped(case.replace(nodes=nodes))
                if plainer is not None:
                    yield plainer


def _fewer_calls(case: Case) -> Iterator[Case]:
    """A later call less, or less of what is other at one."""
    for place, call in enumerate(case.calls):
        before, after = case.calls[:place], case.calls[place + 1 :]
        yield case.replace(calls=before + after)
        fewer = [
            dataclasses.replace(call, grown=call.grown[:n] + call.grown[n + 1 :])
            for n in range(len(call.grown))
        ]
        fewer += [
            dataclasses.replace(call, written=call.written[:n] + call.written[n + 1 :])
            for n in range(len(call.written))
        ]
        for one in fewer:
            yield case.replace(calls=(*before, one, *after))


def _smaller(case: Case) -> Iterator[Case]:
    """Every dimension of one size halved, or one, wherever a variable or layer has it."""
    sizes = {size for v in case.variables for size in v.tensor.shape if size > 1}
    for old in sorted(sizes, reverse=True):
        for new in dict.fromkeys((1, old // 2, old - 1)):
            if 0 < new < old:
                candidate = retyped(case.replace(nodes=tuple(_resized(case, old, new))))
                if candidate is not None:
                    yield candidate


def _resized(case: Case, old: int, new: int) -> Iterator[Node]:
    for node in case.nodes:
        if isinstance(node, Variable):
            shape = tuple(new if size == old else size for size in node.tensor.shape)
            yield dataclasses.replace(node, tensor=Tensor(shape, node.tensor.dtype))
        else:
            attrs = tuple(
                (key, str(new) if key in _SIZES and ast.literal_eval(value) == old else value)
                for key, value in node.attrs
            )
            yield dataclasses.replace(node, attrs=attrs)
