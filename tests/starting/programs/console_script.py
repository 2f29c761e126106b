"""Run by `pytest`, the console script of an installed package, which is a node here."""

import sys

from facts import record


def test_main_module() -> None:
    main = sys.modules["__main__"]
    record(
        "names",
        {name: repr(getattr(main, name)) for name in ("__name__", "__file__", "__spec__", "__package__")},
    )
    record("all names", sorted(vars(main)))
    record("arguments", [sys.argv, sys.orig_argv])
    record("path", sys.path)
