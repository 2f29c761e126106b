"""The policy for ``path: dora-policy``: the trained network, or another one that ``POLICY`` names."""

import os
from pathlib import Path

from network import Network
from world import Vector


class Policy:
    """Gets the state of the table; gives velocities of the tip for the next fifth of a second."""

    def __init__(self) -> None:
        path = Path(os.environ.get("POLICY", "out/policy.npz"))
        if not path.exists():
            raise SystemExit(f"error: there is no {path}; train a policy first: python train.py")
        self._network = Network.load(path)

    def __call__(self, observation: dict[str, Vector]) -> Vector:
        return self._network.chunk(observation["state"])
