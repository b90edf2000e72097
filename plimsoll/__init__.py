"""Plimsoll: what will limited capacity carry, which plan carries most, and how to run it."""

__all__ = ["__version__"]

__version__ = "0.1.0"
