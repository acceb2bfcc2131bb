"""The engine node: the MXNet extension in C++ and its loader.

``node.h`` declares what the pieces share; ``extension.cc`` is MXNet's extension interface
(version 11 of its ABI), ``onnxruntime.cc`` runs ONNX Runtime through its C API, and
``arrays.cc`` reads versions of MXNet arrays and pages weights out to a file.
"""

from mxtrt.node.library import Library, library

__all__ = ["Library", "library"]
