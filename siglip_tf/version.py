"""The package's version. This module does not import TensorFlow."""

__version__ = "0.1.0"
