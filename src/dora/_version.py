"""The version of the distribution, the import package and the command: one number; and who made them."""

__version__ = "0.1.0"
__author__ = "the authors of dora-dataflow"
