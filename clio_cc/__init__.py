"""A compiler that splits a neural network between a microcontroller and the cloud."""

from importlib.metadata import version

__version__ = version("clio-cc")
"""Version of the installed package, e.g. ``0.1.0``."""
