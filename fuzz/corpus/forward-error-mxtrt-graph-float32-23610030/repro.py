"""Reproduces forward-error-mxtrt-graph-float32-23610030: mask drawn: MXNetError: Input array is in gpu(0) while binding with ctx=cpu(0). All arguments must be in global context (cpu(0)) unless group2ctx is specified for cross-device graph"""

from pathlib import Path

from mxtrt_fuzz.corpus import read
from mxtrt_fuzz.replay import replay

for failure in replay(read(Path(__file__).parent)):
    print(failure)
