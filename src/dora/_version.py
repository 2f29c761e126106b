"""The version of the distribution, the import package and the command: one number."""

__version__ = "0.1.0"
