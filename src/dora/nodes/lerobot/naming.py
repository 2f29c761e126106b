"""The names of features for inputs and outputs: ``front`` ↔ ``observation.images.front``."""

from __future__ import annotations

from typing import Final

IMAGES: Final = "observation.images."
_OBSERVATION: Final = "observation."


def feature_name(port: str, *, image: bool) -> str:
    """Return the feature of an input or output.

    >>> feature_name("front", image=True), feature_name("state", image=False)
    ('observation.images.front', 'observation.state')
    >>> feature_name("action", image=False), feature_name("next.reward", image=False)
    ('action', 'next.reward')
    """
    port = port.replace("/", "_")  # LeRobot accepts no slash
    if "." in port or port == "action":
        return port
    return (IMAGES if image else _OBSERVATION) + port
