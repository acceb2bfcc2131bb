"""Executors that a program in another language bound: engines beside MXNet's own."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from mxnet.base import ExecutorHandle
from mxnet.executor import Executor

from mxtrt.frontends.arms import ExecutorArms, watches_of
from mxtrt.frontends.optimized import options_of
from mxtrt.hooks import decision
from mxtrt.hooks.executor import InferenceExecutor, adopt
from mxtrt.hooks.symbol import weights_of

__all__ = ["ClientExecutor"]


class ClientExecutor:
    """The executor of a caller, whose handle stays the caller's.

    Args:
        handle: MXNet's executor.
        symbol: What it was bound from.
        context: Where.
        arguments: Its argument arrays, in order.
        states: Its auxiliary states, in order.

    Attributes:
        symbol: The same.
        context: The same.
    """

    def __init__(
        self,
        handle: int,
        symbol: Any,
        context: Any,
        arguments: Sequence[Any],
        states: Sequence[Any],
    ) -> None:
        self.symbol, self.context = symbol, context
        self._executor = Executor(ExecutorHandle(handle), symbol, context, "null", None)
        self._executor.arg_arrays = [*arguments]
        self._executor.aux_arrays = [*states]

    def bind(self, data: Collection[str] | None) -> bool:
        """Give it engines; whether it got them, or awaits them.

        Args:
            data: Names of the arguments whose shapes the caller gave, where the values of the
                others are written after the bind; None where they are there.
        """
        options = options_of(self.symbol)
        if options is None:
            return False
        if data is None:
            weights = decision.attempt(lambda: weights_of(self.symbol, options), options)
            if weights is None:
                return False
        else:
            arguments = set(self.symbol.list_arguments()) - set(data) - set(options.data_names)
            weights = frozenset(arguments | set(self.symbol.list_auxiliary_states()))
        adopt(self._executor, self.symbol, options, weights, build=data is None)
        return isinstance(self._executor, InferenceExecutor)

    def share_with(self, other: ClientExecutor) -> bool:
        """Give an executor of the same symbol for other shapes the engines; whether it got some."""
        self._executor.share_with(other._executor)
        return isinstance(other._executor, InferenceExecutor)

    def forward(self) -> ExecutorArms | None:
        """Compute the outputs; what does it from now on without Python, None if nothing does.

        Raises:
            MXNetError: MXNet's.
        """
        self._executor.forward_in_place()
        return self.arms()

    def arms(self) -> ExecutorArms | None:
        """What runs forwards without Python; None where nothing does now."""
        executor = self._executor
        binding = executor.standing
        if binding is None:
            return None
        plan = binding.symbol.plan
        arrays = {**executor.arg_dict, **executor.aux_dict}
        watches = watches_of(plan, [arrays[name] for name in sorted(plan.weights)])
        if executor.standing is not binding:  # written before it was watched
            return None
        inputs = [*binding.inputs.values()]
        outputs = executor.outputs
        return ExecutorArms(plan, watches, binding.inline, binding.executor, inputs, outputs)

    def close(self) -> None:
        """Let go of it; the handle is the caller's."""
        self._executor.handle = None
