"""The versions of the distribution and of its interface; and who made them."""

__version__ = "0.1.0"  # of the distribution dora-dataflow
INTERFACE: str = "1.1.0"  # the release of dora-rs whose interface this is: `dora.__version__`
__implementation__: str = f"dora-dataflow {__version__}"
__author__: str = "the authors of dora-dataflow"
