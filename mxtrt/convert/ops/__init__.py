"""Converters, one module per operator family; loading this package fills the registry."""

from mxtrt.convert.ops import activation as activation
from mxtrt.convert.ops import attention as attention
from mxtrt.convert.ops import broadcast as broadcast
from mxtrt.convert.ops import cast as cast
from mxtrt.convert.ops import compare as compare
from mxtrt.convert.ops import creation as creation
from mxtrt.convert.ops import deformable as deformable
from mxtrt.convert.ops import detection as detection
from mxtrt.convert.ops import elementwise as elementwise
from mxtrt.convert.ops import image as image
from mxtrt.convert.ops import indexing as indexing
from mxtrt.convert.ops import linalg as linalg
from mxtrt.convert.ops import nn as nn
from mxtrt.convert.ops import norm as norm
from mxtrt.convert.ops import numpy as numpy
from mxtrt.convert.ops import pooling as pooling
from mxtrt.convert.ops import quantized as quantized
from mxtrt.convert.ops import recurrent as recurrent
from mxtrt.convert.ops import reduce as reduce
from mxtrt.convert.ops import sequence as sequence
from mxtrt.convert.ops import shape as shape
from mxtrt.convert.ops import slice as slice
from mxtrt.convert.ops import softmax as softmax
from mxtrt.convert.ops import vision as vision
from mxtrt.convert.ops.registry import (
    ARITHMETIC,
    EDGES,
    FLOATS,
    NUMBERS,
    Call,
    OpEntry,
    convert,
    converter,
    registry,
)

__all__ = [
    "ARITHMETIC",
    "EDGES",
    "FLOATS",
    "NUMBERS",
    "Call",
    "OpEntry",
    "convert",
    "converter",
    "registry",
]
