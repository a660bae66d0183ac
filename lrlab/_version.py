"""The version of lrlab; hatchling reads it here, too."""

__version__ = "0.1.0"
