"""Specifications of operators, one module per family as in ``mxtrt.convert.ops``.

Importing this package fills the registry.  An operator is its converter and its specification.
"""

from mxtrt_fuzz.specs import activation as activation
from mxtrt_fuzz.specs import attention as attention
from mxtrt_fuzz.specs import broadcast as broadcast
from mxtrt_fuzz.specs import cast as cast
from mxtrt_fuzz.specs import compare as compare
from mxtrt_fuzz.specs import creation as creation
from mxtrt_fuzz.specs import deformable as deformable
from mxtrt_fuzz.specs import detection as detection
from mxtrt_fuzz.specs import elementwise as elementwise
from mxtrt_fuzz.specs import image as image
from mxtrt_fuzz.specs import indexing as indexing
from mxtrt_fuzz.specs import linalg as linalg
from mxtrt_fuzz.specs import nn as nn
from mxtrt_fuzz.specs import norm as norm
from mxtrt_fuzz.specs import numpy as numpy
from mxtrt_fuzz.specs import pooling as pooling
from mxtrt_fuzz.specs import quantized as quantized
from mxtrt_fuzz.specs import recurrent as recurrent
from mxtrt_fuzz.specs import reduce as reduce
from mxtrt_fuzz.specs import sequence as sequence
from mxtrt_fuzz.specs import shape as shape
from mxtrt_fuzz.specs import slice as slice
from mxtrt_fuzz.specs import softmax as softmax
from mxtrt_fuzz.specs import unconverted as unconverted
from mxtrt_fuzz.specs import vision as vision
from mxtrt_fuzz.specs.base import INTEGERS, Application, Attributes, Operand, OpSpec, specs, whole

__all__ = ["INTEGERS", "Application", "Attributes", "OpSpec", "Operand", "specs", "whole"]
