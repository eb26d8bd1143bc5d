"""The version of Ingot."""

__version__ = "0.1.0"
