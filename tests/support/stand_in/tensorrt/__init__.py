"""A stand-in for NVIDIA's package: its builder does what the name of the graph says."""

import os
import signal
import time
from types import SimpleNamespace

import onnx

__version__ = "10.0.0"

if os.environ.get("STAND_IN") == "missing":
    raise ImportError("no TensorRT for this process")

ICudaEngine = SimpleNamespace(get_tensor_name=None)
NetworkDefinitionCreationFlag = SimpleNamespace()
BuilderFlag = SimpleNamespace(TF32=0)
PreviewFeature = SimpleNamespace(FASTER_DYNAMIC_SHAPES_0805="faster", OTHER="other")


class ILogger:
    """Its severities."""

    Severity = SimpleNamespace(INTERNAL_ERROR=0, ERROR=1, WARNING=2, VERBOSE=4)


class OnnxParser:
    """Refuses one graph."""

    num_errors = 1

    def __init__(self, network, logger):
        self.network = network

    def parse(self, model):
        self.network.name = onnx.load_model_from_string(model).graph.name
        return self.network.name != "refused"

    def get_error(self, place):
        return SimpleNamespace(node=lambda: 1, desc=lambda: "no such operator")


class Config:
    """A configuration, and its timing cache."""

    def __init__(self):
        self.features = []

    def set_preview_feature(self, feature, on):
        assert on
        self.features.append(feature)

    def add_optimization_profile(self, profile):
        return 0

    def clear_flag(self, flag):
        pass

    def create_timing_cache(self, data):
        self.timings = data
        return self

    def set_timing_cache(self, timings, ignore):
        pass

    def get_timing_cache(self):
        return self

    def serialize(self):
        return self.timings + b"+"


class Builder:
    """An engine is the number of the process that built it."""

    def __init__(self, logger):
        self.logger = logger

    def create_network(self, flags):
        return SimpleNamespace()

    def create_builder_config(self):
        return Config()

    def create_optimization_profile(self):
        return SimpleNamespace(set_shape=lambda *_: None)

    def build_serialized_network(self, network, config):
        self.logger.log(ILogger.Severity.WARNING, f"this is {network.name}")
        if network.name == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        for _ in range(40 if network.name == "takes long" else 0):
            time.sleep(0.1)
            self.logger.log(ILogger.Severity.VERBOSE, "tried a tactic")
        if network.name == "hang":
            time.sleep(600)
        if network.name == "failure":
            self.logger.log(ILogger.Severity.ERROR, "no implementation")
            return None
        if network.name.startswith("no kernel: "):
            self.logger.log(ILogger.Severity.ERROR, network.name.partition(": ")[2])
            return None
        if network.name == "features":
            return " ".join(config.features).encode() or b"none"
        return b"%d" % os.getpid()
