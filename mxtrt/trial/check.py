"""What engines have to pass when they are built first: the options ``verify`` and ``prefer``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mxtrt.engines import Session
from mxtrt.errors import RefusedNodesError
from mxtrt.graph.symbol import Graph
from mxtrt.plan import graph_pass
from mxtrt.trial import fastest, ranged
from mxtrt.trial.verify import verify

if TYPE_CHECKING:
    from mxtrt.plan.engine_node import EngineNode
    from mxtrt.plan.plan import Plan

__all__ = ["all_built", "before", "built", "forget", "ranges"]


def before(plan: Plan) -> None:
    """Refuse what is known to be slower from other binds.

    Raises:
        RefusedNodesError: MXNet is faster; the nodes are named.
    """
    slower = dict(plan.timed.slower or {})
    if plan.timed.slower is None:
        for node in plan.nodes:
            reason = fastest.recalled(node, plan.is_one_node) if fastest.is_timed(node) else None
            if reason:
                slower |= dict.fromkeys(node.report.nodes, reason)
    if slower:
        raise RefusedNodesError(slower)


def built(node: EngineNode, arrays: Mapping[str, Any]) -> None:
    """Compare an engine's answers with MXNet's, if the option ``verify`` is on.

    Args:
        node: An engine node whose engine is built.
        arrays: NDArrays of the weights, and of the data where they are known, by name.

    Raises:
        RefusedNodesError: They are too far apart.
    """
    if node.options.verify:
        verify(node, arrays)


def all_built(plan: Plan, arrays: Mapping[str, Any]) -> None:
    """Time the engines against MXNet, if the option ``prefer`` wants it.

    Args:
        plan: A plan whose engines are built.
        arrays: NDArrays of the weights, and of the data where they are known, by name.

    Raises:
        RefusedNodesError: MXNet is faster; the nodes are named.
    """
    timed = plan.timed
    if timed.slower is None:
        slower: dict[str, str] = {}
        notes: list[list[str]] = []
        for node in plan.nodes:
            known = len(node.report.notes)
            try:
                if fastest.is_timed(node):
                    fastest.compare(node, arrays, plan.is_one_node)
            except RefusedNodesError as refusal:
                slower.update(refusal.reasons)
            notes.append(node.report.notes[known:])
        timed.notes, timed.slower = notes, slower
    else:  # another bind of this graph has timed them
        slower = timed.slower
        for node, told in zip(plan.nodes, timed.notes, strict=True):
            node.report.notes += told
    if slower:
        raise RefusedNodesError(slower)


def ranges(node: EngineNode, session: Session, graphs: Sequence[Graph]) -> None:
    """Compare an engine for ranges of shapes with MXNet, whatever the options are.

    Args:
        node: The engine node that it is to serve.
        session: The engine.
        graphs: The segment at the input shapes to compare at.

    Raises:
        EngineError: They are too far apart, or cannot be compared.
    """
    ranged.compare(node, session, graphs)


def forget() -> None:
    """Have later binds find nothing of earlier ones, as in a process of their own."""
    graph_pass.forget()
    fastest.outcomes.clear()
