"""Comparing engines for ranges of shapes with MXNet before they answer a request.

TensorRT's compiler gets some models wrong when sizes are open that it gets right at each size.
Version 8.5.3 summed a softmax between two products of matrices over the width of its kernel: at
length 17, over 32 numbers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mxtrt.engines import Session, Weight
from mxtrt.errors import EngineError
from mxtrt.graph.symbol import Graph
from mxtrt.plain.loading import mxnet_reason
from mxtrt.trial.indices import IndicesError
from mxtrt.trial.segment import run_session, values_for
from mxtrt.trial.verify import UNITS, Expected

if TYPE_CHECKING:
    from mxtrt.plan.engine_node import EngineNode

__all__ = ["compare"]

# An answer that is so many tolerances off is wrong.  Long sums in another order are off by tens,
# where each number moves MXNet's sum little; a size that was taken for another one by thousands.
_WRONG = 100.0

# How often MXNet answers to moved numbers at each of the input shapes.
_SAMPLES = 2

# Seconds of MXNet's at other input shapes than the one that an engine was built for first.
_MOST_SECONDS = 3.0


def compare(node: EngineNode, session: Session, graphs: Sequence[Graph]) -> None:
    """Compare an engine with MXNet's operators, on the CPU, at several input shapes.

    Args:
        node: The engine node that it is to serve.
        session: The engine, which serves no requests yet.
        graphs: The segment at the input shapes; those but the first are left out where MXNet takes
            long.

    Raises:
        EngineError: They are too far apart, or cannot be compared.
    """
    from mxnet.base import MXNetError

    unit = UNITS.get(node.precision)
    if unit is None:
        return  # it rounds as calibrated
    known = node.sessions.arrays or {}
    weights = {w.name: Weight.of(w, known[w.name]).values for w in node.weight_types}
    pace = 0.0  # seconds for an element of the inputs
    for graph in graphs:
        types = {one.name: one.types[0] for one in graph.nodes if one.is_variable}
        sizes = [types[name].shape or () for name in node.inputs]
        volume = sum(map(math.prod, sizes))
        if pace * volume > _MOST_SECONDS:
            continue
        begin = time.perf_counter()
        at = " and ".join(map(str, sizes))
        try:
            values = values_for(graph, node.inputs, weights)
            expected = Expected(graph, graph.heads, values, unit, None, _SAMPLES)
        except (MXNetError, IndicesError) as error:
            told = mxnet_reason(error) if isinstance(error, MXNetError) else error
            raise EngineError(
                f"it cannot be compared with MXNet at input shapes {at}: {told}"
            ) from error
        pace = max(pace, (time.perf_counter() - begin) / max(volume, 1))
        answers = run_session(session, graph, [values[name] for name in node.inputs], node.gpu)
        distance = expected.distance(graph.heads, answers)
        if distance > _WRONG:
            raise EngineError(
                f"its answer at input shapes {at} is {distance:.3g} tolerances from MXNet's"
            )
