"""The version of this package, for what must not import all of it."""

__all__ = ["__version__"]

__version__ = "0.1.0"
