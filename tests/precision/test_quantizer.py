"""ONNX Runtime's quantizer, and the rest of the process."""

from __future__ import annotations

import logging
import threading

import pytest

from mxtrt.precision.quantizer import quantization, quiet

pytest.importorskip("onnxruntime.quantization")


def test_it_is_silent_for_the_thread_that_asks_and_for_no_other(capsys, caplog):
    """What other threads have it print and log is seen."""
    quantization()
    from onnxruntime.quantization import calibrate, onnx_quantizer

    def say(who: str) -> None:
        calibrate.print(who)
        onnx_quantizer.logging.warning("%s", who)

    with quiet(), quiet():
        say("ours")
        other = threading.Thread(target=say, args=("theirs",))
        other.start()
        other.join()
    say("later")
    assert capsys.readouterr().out.split() == ["theirs", "later"]
    assert caplog.messages == ["theirs", "later"]
    assert onnx_quantizer.logging.getLogger is logging.getLogger
