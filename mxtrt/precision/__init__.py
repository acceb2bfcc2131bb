"""Precision: the float32 model of a segment, retyped before an engine is built from it.

``working`` is a model open for changes, ``folding`` takes normalisation into the layer before it,
``fp16`` retypes to float16, ``activations`` finds out how large values get; ``calibration``
collects ``ranges`` and ``int8`` quantizes with them; ``apply`` puts them together.  ``layers`` says
which layer loses how much, ``search`` which of them to keep in float32.
"""

from mxtrt.precision.apply import Retyped, retyped

__all__ = ["Retyped", "retyped"]
