"""A segment becomes an ONNX model: ``segment`` walks it, ``ops`` has a converter for each operator.

``onnx_builder`` collects the nodes that the converters emit.
"""
