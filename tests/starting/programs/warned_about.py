"""A module that warns those who call it."""

import warnings


def warn(level: int) -> None:
    warnings.warn(f"level {level}", DeprecationWarning, stacklevel=level)
