"""Engines for programs in other languages than Python, which go through MXNet's C API.

``libmxnet.cc`` is a ``libmxnet.so`` in front of MXNet's own (``real.cc``).  It starts a Python in
the program (``python.cc``) and asks ``embedded`` there, whose binds are those of Python's
programs: ``executors``, ``blocks`` for ``CachedOp``, and ``predictors``.  ``environment`` says what
such a program is to be started with.
"""
