"""MXNet without engines: ``loading`` it, its ``dtypes``, a ``forward`` in its own executor."""
