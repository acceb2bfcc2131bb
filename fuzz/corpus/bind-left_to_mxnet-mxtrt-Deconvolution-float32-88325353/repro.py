"""Reproduces bind-left_to_mxnet-mxtrt-Deconvolution-float32-88325353: mask none: ValueError: operands could not be broadcast together with shapes (4,) (2,)"""

from pathlib import Path

from mxtrt_fuzz.corpus import read
from mxtrt_fuzz.replay import replay

for failure in replay(read(Path(__file__).parent)):
    print(failure)
