"""The engine node: the MXNet extension in C++ and its loader.

``node.h`` declares what the pieces share; ``extension.cc`` is MXNet's extension interface
(version 11 of its ABI); ``onnxruntime.cc`` runs ONNX Runtime through its C API; ``cuda.cc``
launches CUDA graphs through the NVIDIA driver; ``arrays.cc`` reads versions of MXNet arrays,
pages weights out to a file and runs short graphs on the calling thread.
"""

from mxtrt.node.library import Library, library

__all__ = ["Library", "library"]
