"""Whether the environment asks for strictness."""

import os
from typing import Final

STRICT_VARIABLE: Final = "DORA_STRICT"


def is_strict() -> bool:
    """Return whether ``DORA_STRICT`` is set to 1, true, yes or on."""
    return os.environ.get(STRICT_VARIABLE, "").lower() in ("1", "true", "yes", "on")
