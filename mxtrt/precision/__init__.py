"""Precision: the float32 model of a segment, retyped before an engine is built from it.

``apply`` puts the steps together.  ``working`` is a model open for changes, and ``folding`` takes
normalisation into the layer before it.  ``fp16`` retypes to float16 what does not overflow by the
magnitudes that ``activations`` finds.  ``int8`` quantizes by the ``ranges`` that calibration
(:mod:`mxtrt.offline.calibration`) collected, with ONNX Runtime's ``quantizer``.
"""

from mxtrt.precision.apply import Retyped, retyped

__all__ = ["Retyped", "retyped"]
