"""Engines for programs in other languages than Python, which go through MXNet's C API.

The C++ here is a ``libmxnet.so`` in front of MXNet's own (``real.cc``): ``executors.cc``,
``cached_ops.cc``, ``predictors.cc`` and ``symbols.cc`` answer the calls that bind and run.  It
starts a Python in the program (``python.cc``) and asks ``embedded`` there, whose binds are those of
Python's programs: ``executors``, ``blocks`` for ``CachedOp``, ``predictors``, and ``optimized`` for
symbols.  ``arms`` is what runs without Python from then on (``bound.h``), ``environment`` what such
a program is to be started with.
"""
