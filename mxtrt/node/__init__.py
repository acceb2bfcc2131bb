"""The engine node: the MXNet extension in C++ and its loader.

``extension.cc`` is MXNet's extension interface (version 11 of its ABI); ``inline.cc`` runs a node
from the calling thread.  ``onnxruntime.cc`` has the sessions of ONNX Runtime, through its C API;
``cuda.cc`` those of engines on a GPU, as CUDA graphs, ``device.cc`` what they share on one GPU, and
``driver.cc`` looks up NVIDIA's driver.  ``arrays.cc`` watches MXNet's arrays for writes and moves
weights out of memory; ``arrays.h`` says what is known of MXNet's arrays, ``node.h`` what the pieces
share.  ``library``, ``cuda`` and ``watch`` are these in Python.
"""

from mxtrt.node.library import Library, library

__all__ = ["Library", "library"]
