"""Converters, one module per operator family; loading this package fills the registry."""

from mxtrt.ops import activation as activation
from mxtrt.ops import attention as attention
from mxtrt.ops import broadcast as broadcast
from mxtrt.ops import cast as cast
from mxtrt.ops import compare as compare
from mxtrt.ops import creation as creation
from mxtrt.ops import elementwise as elementwise
from mxtrt.ops import indexing as indexing
from mxtrt.ops import linalg as linalg
from mxtrt.ops import nn as nn
from mxtrt.ops import norm as norm
from mxtrt.ops import numpy as numpy
from mxtrt.ops import pooling as pooling
from mxtrt.ops import recurrent as recurrent
from mxtrt.ops import reduce as reduce
from mxtrt.ops import sequence as sequence
from mxtrt.ops import shape as shape
from mxtrt.ops import slice as slice
from mxtrt.ops import softmax as softmax
from mxtrt.ops import vision as vision
from mxtrt.ops.registry import (
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
