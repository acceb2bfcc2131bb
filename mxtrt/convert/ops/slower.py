"""Operators that ONNX Runtime computes slower than MXNet on a CPU, and how much.

MXNet keeps them there, unless the option ``allow_ops`` names them: a segment that has one of them
would be slower than MXNet, and cutting one in two costs some 20 microseconds.  The factors are
those of each operator alone in turns with MXNet on a Zen 4, one thread each (ONNX Runtime 1.32).
Other ONNX operators that compute the same were tried and are not faster than MXNet either.  An
operator that is slower by less has no rule, because what its segment saves around it is more; rules
with ``alone`` are for segments that have nothing around it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod

from mxtrt.convert.ops.registry import Call

__all__ = ["RULES", "Rule", "rule_for"]


@dataclass(frozen=True, slots=True)
class Rule:
    """When an operator stays in MXNet on a CPU.

    Attributes:
        factor: How many times as long ONNX Runtime takes.
        holds: Whether a node is one of those that the rule is about.
        one_thread: Whether the rule is only for one thread that computes in float32.
        alone: Whether the rule is only for a segment that computes nothing else, in float32: ONNX
            Runtime fuses it with a convolution before it, or with what follows.
        of_data: Whether the rule is only for nodes none of whose inputs is known at bind, which
            MXNet would compute at every call.

    Rules with ``one_thread`` or ``alone`` guess what the option ``prefer`` would measure, and do
    not count where it is ``engine``.
    """

    factor: str
    holds: Callable[[Call], bool]
    one_thread: bool = False
    alone: bool = False
    of_data: bool = False

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
    """A mode other than lstm."""
    return call.text("mode") != "lstm"


def _of_several_channels(call: Call) -> bool:
    """Alone in its segment, unless each channel has its own kernel, or that is a point in 3D."""
    kernel = call.integers("kernel")
    point = len(kernel) == 3 and max(kernel) == 1
    return not point and call.integer("num_group", 1) < call.shape()[1]


def _large(call: Call) -> bool:
    """Of 4096 numbers or more: for fewer it is not worth cutting a segment."""
    return prod(call.shape()) >= 4096


def _choices(call: Call) -> bool:
    """Of 4096 numbers or more, where no input is known at bind."""
    return _large(call)


def _many_choices(call: Call) -> bool:
    """Of a million numbers or more."""
    return prod(call.shape()) >= 1_000_000


def _sampled(call: Call) -> bool:
    """With ONNX Runtime before 1.25, which has no operator for it."""
    return call.opset < 19


def _elu(call: Call) -> bool:
    """With act_type=elu, of 100,000 numbers or more."""
    return call.text("act_type", "leaky") == "elu" and prod(call.shape()) >= 100_000


def _leaky(call: Call) -> bool:
    """Alone in its segment, with act_type=leaky or gelu, of 100,000 numbers or more."""
    kind = call.text("act_type", "leaky")
    return kind in ("leaky", "gelu") and prod(call.shape()) >= 100_000


def _many_classes(call: Call) -> bool:
    """Of 4096 numbers or more, counted behind it."""
    return prod(call.shape()) * call.integer("depth") >= 4096


def _few_boxes(call: Call) -> bool:
    """Alone in its segment, of fewer than 4096 boxes, of which fewer than 256 are compared."""
    size, topk = call.shape()[-2], call.integer("topk", -1)
    return size < 4096 and (size if topk < 0 else min(size, topk)) < 256


def _many_rows(call: Call) -> bool:
    """Where one thread computes in float32, 512 rows, 256 units and 1,500,000 numbers or more."""
    shape = call.shape()
    rows = shape[0] if call.flag("flatten", True) else prod(shape[:-1])
    return rows >= 512 and prod(shape) >= 1_500_000 and call.integer("num_hidden") >= 256


def _soft_relu(call: Call) -> bool:
    """With act_type=softrelu, of 4096 numbers or more."""
    return call.text("act_type") == "softrelu" and _large(call)


_CONVOLUTIONS = (
    Rule("1.2 to 1.6", _in_three_axes),
    Rule("up to 1.1", _of_several_channels, alone=True),
)
_DENSE = (Rule("1.1 to 1.4", _many_rows, one_thread=True),)
_DEFORMABLE = (Rule("1.05 to 2", _sampled),)
_QUANTIZED = (Rule("1.1 to 4", _always),)
_RECURRENT = (Rule("1.03 to 3.6", _but_lstm),)

#: By operator; of several rules the first one that holds counts.
RULES: Mapping[str, tuple[Rule, ...]] = {
    "Convolution": _CONVOLUTIONS,
    "Deconvolution": (Rule("1.1 to 1.8", _of_all_channels),),
    "FullyConnected": _DENSE,
    "_npx_fully_connected": _DENSE,
    "Pooling": (Rule("1.6", _averages_last),),
    "RNN": _RECURRENT,
    "_npx_rnn": _RECURRENT,
    "Activation": (Rule("13", _soft_relu),),
    "LeakyReLU": (Rule("4", _elu), Rule("1.05 to 1.4", _leaky, alone=True)),
    "LRN": (Rule("1.5 to 23", _always),),
    "BilinearSampler": (Rule("1.5", _always),),
    "SpatialTransformer": (Rule("1.3 to 1.7", _always),),
    "_contrib_ROIAlign": (Rule("1.3", _always),),
    "_contrib_MultiBoxDetection": (Rule("1.1 to 3", _always),),
    "_contrib_box_iou": (Rule("2 to 4", _always),),
    "_contrib_box_nms": (Rule("1.1 to 1.8", _few_boxes, alone=True),),
    "_contrib_DeformableConvolution": _DEFORMABLE,
    "_contrib_ModulatedDeformableConvolution": _DEFORMABLE,
    "_contrib_dequantize": _QUANTIZED,
    "_contrib_quantize_v2": _QUANTIZED,
    "_contrib_quantized_act": _QUANTIZED,
    "_contrib_quantized_concat": _QUANTIZED,
    "_contrib_quantized_flatten": _QUANTIZED,
    "_contrib_quantized_pooling": _QUANTIZED,
    "_sg_mkldnn_conv": _QUANTIZED,
    "_sg_mkldnn_fully_connected": _QUANTIZED,
    "log1p": (Rule("2", _large),),
    "_npi_log1p": (Rule("2", _large),),
    "one_hot": (Rule("3", _many_classes),),
    "where": (Rule("2.5", _choices, of_data=True), Rule("2.5", _many_choices)),
}


def rule_for(call: Call, of_data: bool = True) -> Rule | None:
    """The rule by which a node that can be converted stays in MXNet on a CPU, if there is one.

    Args:
        call: The node.
        of_data: Whether none of its inputs is known at bind.
    """
    if call.half:  # of float16 MXNet has hardly a kernel there
        return None
    rules = (rule for rule in RULES.get(call.node.op, ()) if of_data or not rule.of_data)
    return next((rule for rule in rules if rule.holds(call)), None)
