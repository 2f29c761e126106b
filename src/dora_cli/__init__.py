"""The module of the distribution ``dora-rs-cli``, for programs that import `dora`'s functions from here."""

from dora import __version__, build, run, start_runtime
from dora.cli.main import main as py_main

__all__ = ["__version__", "build", "py_main", "run", "start_runtime"]
