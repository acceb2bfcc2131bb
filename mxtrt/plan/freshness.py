"""When engines follow weights that changed.

An engine holds its weights as they were when it was built.  MXNet counts the writes to every
array; before each forward the counts are compared, and where one has moved the contents, because
binding and freeing an executor count as writes too.  After a change MXNet's own operators answer,
and the engines are built again once the weights hold still: at once after the first change, then
after 1, 2, 4, ... further forwards, so that alternating training and inference steps do not build
an engine each.  They are built in the background, unless the option ``build`` says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mxtrt.errors import RefusedNodesError
from mxtrt.node.forks import in_forked_child
from mxtrt.observe.counters import count
from mxtrt.plan.later import Tried
from mxtrt.system.threads import lock

if TYPE_CHECKING:
    from mxtrt.plan.plan import Plan

__all__ = ["Freshness"]

_MOST_PATIENT = 64
_CALM_AFTER = 100


class Freshness:
    """Keeps a plan's engines in step with its weights.

    Args:
        plan: The plan; its engines may still be unbuilt.
        arrays: The weight arrays by name, and possibly more.
        about: What stands for what was bound, see :func:`mxtrt.ready`.
    """

    def __init__(self, plan: Plan, arrays: Mapping[str, Any], about: object = None) -> None:
        from mxnet.base import MXNetError

        self._error = MXNetError
        self._plan = plan
        self._arrays = arrays
        self._patience = 0
        self._waiting = 0
        self._served = 0
        self._pending = False
        self._about = about
        self._was_built = plan.state.built
        self._built = Tried()  # building the engines
        self._lock = lock()

    def current(self) -> bool:
        """Whether the engines may answer at once; never builds anything."""
        plan = self._plan
        try:
            if not plan.state.built or in_forked_child() or plan.baseline.changed():
                return False
        except self._error:  # a pending write failed, which MXNet's own operators then raise
            return False
        # Checked last: another thread may have seen the change and reset the counts in between.
        if self._pending:
            return False
        self._served += 1
        if self._served == _CALM_AFTER:
            self._patience = 0
        return True

    @property
    def awaits(self) -> bool:
        """Whether engines are being built in the background."""
        return self._built.awaited

    def settle(self, data: Mapping[str, Any] | None = None) -> bool:
        """Whether the engines may answer, after building them when it is time to.

        Args:
            data: Arrays of the call that asks, by name, for comparing engines with MXNet.

        Raises:
            RefusedNodesError: An engine failed at run time, or refused nodes.
            EngineError: A build failed, in the background several times.
        """
        if in_forked_child():
            return False
        from mxtrt.node import library

        if not all(map(library().is_readable, self._arrays.values())):
            return False  # a pending write failed, which MXNet's own operators then raise
        with self._lock:
            return self._settle(data or {})

    def _settle(self, data: Mapping[str, Any]) -> bool:
        plan = self._plan
        if plan.state.retired:
            raise RefusedNodesError(plan.state.reasons)
        if self._built.awaited:
            return False
        if self._built.result():
            count("rebuilds", self._was_built)
            self._pending, self._was_built = False, True
        if plan.state.built and not plan.baseline.still_holds():
            self._pending = True
            # Engines that have not answered since the last build are built at once.
            self._waiting = self._patience if self._served else 0
            if self._served:
                self._patience = min(max(2 * self._patience, 1), _MOST_PATIENT)
            self._served = 0
            plan.baseline.remember()
        if self._pending and self._waiting:
            self._waiting -= 1
            return False
        if self._pending or not plan.state.built:
            if not self._built.waits(plan.options, plan.nodes[0].gpu, first=not self._was_built):
                self._begin()
                return False
            plan.build(self._arrays if self._pending else {**data, **self._arrays}, shares=True)
            count("rebuilds", self._pending)
            self._pending, self._was_built = False, True
        if not plan.baseline.still_holds():
            return False  # another thread wrote meanwhile
        self._served += 1
        return True

    def _begin(self) -> None:
        """Have the engines built in the background."""
        plan = self._plan
        names = ", ".join(node.report.name for node in plan.nodes)
        arrays = self._arrays

        def build() -> bool:
            plan.build(arrays, shares=True)
            return True

        told = f"{names} with the present weights"
        self._built.begin(build, self._about, plan.report, told)
