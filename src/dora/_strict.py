"""Whether the environment asks for strictness."""

import os
from typing import Final

STRICT_VARIABLE: Final = "DORA_STRICT"


def is_on(variable: str) -> bool:
    """Return whether an environment variable is set to 1, true, yes or on."""
    return os.environ.get(variable, "").lower() in ("1", "true", "yes", "on")
