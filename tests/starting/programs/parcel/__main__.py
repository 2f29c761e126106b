"""`python -m parcel`."""

at_first = {name: repr(value) for name, value in dict(globals()).items()}

import pickle
import sys

from facts import record

from . import inner


class Thing:
    """A class of the module."""


record("names at first", at_first)
record("spec", [__spec__.name, __spec__.origin, __spec__.parent, type(__spec__.loader).__name__])
record("name", [__name__, __package__, __file__, sys.argv, sys.orig_argv, sys.path])
record("cached", __cached__)
record("pickle", pickle.dumps(Thing).hex())
record(
    "import",
    [inner.__name__, sys.modules["__main__"].__dict__ is globals(), "parcel.__main__" in sys.modules],
)
raise SystemExit(inner.end())
