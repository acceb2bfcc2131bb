"""A segment becomes an ONNX model.

``support`` says which nodes can be converted, ``segment`` makes the model, and ``node`` the ONNX
nodes of one MXNet node by the converters in ``ops``; ``onnx_builder`` collects them.
"""
