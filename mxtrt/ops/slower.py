"""Operators that ONNX Runtime computes slower than MXNet on a CPU, and how much.

MXNet keeps them there, unless the option ``allow_ops`` names them: a segment that has one of them
would be slower than MXNet, and cutting one in two costs some 20 microseconds.  The factors are
those of each operator alone in turns with MXNet on a Zen 4, one thread each (ONNX Runtime 1.32); no
form in other ONNX operators that was tried is faster than MXNet.  What is slower by less, as
convolutions of many channels are, costs less than what is saved around it, or is found by the
option ``prefer``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod

from mxtrt.ops.registry import Call

__all__ = ["RULES", "Rule", "rule_for"]


@dataclass(frozen=True, slots=True)
class Rule:
    """When an operator stays in MXNet on a CPU.

    Attributes:
        factor: How many times as long ONNX Runtime takes.
        holds: Whether a node is one of those that the rule is about.
        one_thread: Whether it is so only where one thread computes in float32.  Such a rule is a
            guess at what ``prefer`` would measure.
    """

    factor: str
    holds: Callable[[Call], bool]
    one_thread: bool = False

    @property
    def reason(self) -> str:
        """Why the node stays in MXNet."""
        return f"on a CPU ONNX Runtime takes {self.factor} times as long for it as MXNet"


def _always(call: Call) -> bool:
    """Always."""
    return True


def _in_three_axes(call: Call) -> bool:
    """In three axes, unless the kernel is a single point or every channel has its own."""
    kernel, groups = call.integers("kernel"), call.integer("num_group", 1)
    return len(kernel) == 3 and max(kernel) > 1 and groups < call.shape()[1]


def _of_all_channels(call: Call) -> bool:
    """In two or three axes, without groups."""
    return len(call.integers("kernel")) > 1 and call.integer("num_group", 1) == 1


def _averages_last(call: Call) -> bool:
    """Averages of windows with the channels last."""
    average = call.text("pool_type", "max") == "avg" and not call.flag("global_pool")
    return average and call.text("layout", "").endswith("C")


def _but_lstm(call: Call) -> bool:
    """A mode other than lstm, but gru for batch size times state size of at most 128."""
    mode, size = call.text("mode"), call.shape()[1] * call.integer("state_size")
    return mode != "lstm" and (mode != "gru" or size > 128)


def _large(call: Call) -> bool:
    """Of 4096 numbers or more: for fewer it is not worth cutting a segment."""
    return prod(call.shape()) >= 4096


def _elu(call: Call) -> bool:
    """With act_type=elu, of 100,000 numbers or more."""
    return call.text("act_type", "leaky") == "elu" and prod(call.shape()) >= 100_000


def _many_rows(call: Call) -> bool:
    """Where one thread computes in float32, 512 rows, 256 units and 1,500,000 numbers or more."""
    shape = call.shape()
    rows = shape[0] if call.flag("flatten", True) else prod(shape[:-1])
    return rows >= 512 and prod(shape) >= 1_500_000 and call.integer("num_hidden") >= 256


def _soft_relu(call: Call) -> bool:
    """With act_type=softrelu, of 4096 numbers or more."""
    return call.text("act_type") == "softrelu" and _large(call)


#: By operator.
RULES: Mapping[str, Rule] = {
    "Convolution": Rule("1.2 to 1.6", _in_three_axes),
    "Deconvolution": Rule("1.1 to 1.8", _of_all_channels),
    "FullyConnected": Rule("1.1 to 1.4", _many_rows, one_thread=True),
    "_npx_fully_connected": Rule("1.1 to 1.4", _many_rows, one_thread=True),
    "Pooling": Rule("1.6", _averages_last),
    "RNN": Rule("1.03 to 3.6", _but_lstm),
    "_npx_rnn": Rule("1.03 to 3.6", _but_lstm),
    "Activation": Rule("13", _soft_relu),
    "LeakyReLU": Rule("4", _elu),
    "LRN": Rule("1.5 to 23", _always),
    "BilinearSampler": Rule("1.5", _always),
    "SpatialTransformer": Rule("1.3 to 1.7", _always),
    "_contrib_ROIAlign": Rule("1.3", _always),
    "log1p": Rule("2", _large),
    "_npi_log1p": Rule("2", _large),
}


def rule_for(call: Call) -> Rule | None:
    """The rule by which a node that can be converted stays in MXNet on a CPU, if there is one."""
    rule = RULES.get(call.node.op)
    # Of float16 MXNet has hardly a kernel there.
    return None if rule is None or call.half or not rule.holds(call) else rule
