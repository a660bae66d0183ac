"""The version, which hatchling reads here too."""

__version__ = "0.1.0"
