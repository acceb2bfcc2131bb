"""Converters of casts."""

from __future__ import annotations

from mxtrt.convert.onnx_builder import tensor_type
from mxtrt.convert.ops.registry import NUMBERS, Call, converter


@converter("Cast", "cast", "_npi_cast", "_npx_cast", outputs=1)
def cast(call: Call) -> None:
    """``Cast``: towards zero, as in C.

    What a number becomes that the dtype cannot hold is undefined in C++, so in MXNet too.
    """
    call.require_dtype(call.inputs[0], NUMBERS)
    call.require_dtype(call.outputs[0], NUMBERS)
    kind = call.outputs[0].dtype
    assert kind is not None
    call.emit("Cast", [call.input()], output=call.output(), to=tensor_type(kind))


@converter("amp_cast", moves_data_only=True, outputs=1)
def amp_cast(call: Call) -> None:
    """``Identity`` where nothing is cast: of float32 to float32, of integers to anything.

    On a CPU, MXNet casts float32 to integers by oneDNN, which rounds and saturates.
    """
    call.require_numbers()
    call.emit("Identity", [call.input()], output=call.output())


@converter("amp_multicast", moves_data_only=True)
def amp_multicast(call: Call) -> None:
    """``Identity`` of every input: without a float16 among them, the common float is float32."""
    for index, (source, target) in enumerate(zip(call.inputs, call.outputs, strict=True)):
        call.require_dtype(source, NUMBERS)
        call.require(source.dtype == target.dtype, f"a cast of {source.dtype} to {target.dtype}")
        call.emit("Identity", [call.input(index)], output=call.output(index))
