"""The engine node: the MXNet extension in C++ and its loader.

``extension.cc`` is MXNet's extension interface (version 11 of its ABI); ``inline.cc`` runs a node
from the calling thread, and ``forward.cc`` is what both do for a run.  ``node.cc`` is a node with
its variants, ``spares.cc`` the output arrays that it uses again, and ``registry.cc`` has the nodes
and sessions by number.  ``session.h`` says what an engine is: ``onnxruntime.cc`` has those of ONNX
Runtime, through its C API, and ``cuda_fixed.cc`` those on a GPU, as CUDA graphs, ``cuda_ranges.cc``
those for many shapes there, ``cuda_session.cc`` what both do; ``device.cc`` has the GPUs and their
lanes, ``flights.cc`` the runs that are on their way, ``cuda.cc`` is what Python asks of a GPU, and
``driver.cc`` looks up NVIDIA's driver.  ``arrays.cc`` watches MXNet's
arrays for writes and moves weights out of memory; ``arrays.h`` says what is known of the arrays.
``pushes.cc`` has MXNet's engine take operations of several threads without coming to a stop.
``callbacks.cc`` asks Python, ``process.cc`` knows of forks and the end of the process,
``errors.cc`` keeps messages, ``tally.cc`` counts, and ``nvtx.cc`` names ranges for profilers.
``library``, ``cuda`` and ``watch`` are these in Python.
"""

from mxtrt.node.library import Library, library

__all__ = ["Library", "library"]
