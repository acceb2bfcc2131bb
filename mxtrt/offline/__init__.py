"""Tools that bind nothing for a user's request.

``inspection`` and ``coverage`` say what engines would take; ``export`` writes segments as ONNX;
``calibration`` finds the ranges of int8, ``search`` the layers that are better in float32, by their
``layer_errors``.
"""
