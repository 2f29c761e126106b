"""``python -m dora.ros2.bridge``: the program that a node with a `ros2` block runs."""

from __future__ import annotations

import os
import sys

from dora.dataflow.ros2 import BRIDGE_VARIABLE, Ros2Block
from dora.errors import DoraError
from dora.wire.decoders import from_json


def main() -> int:
    """Carry messages until the dataflow ends; return the exit status."""
    text = os.environ.get(BRIDGE_VARIABLE)
    if text is None:
        reason = f"a dataflow starts this program, for a node with `ros2` (${BRIDGE_VARIABLE} is not set)"
        print(f"error: {reason}", file=sys.stderr)
        return 2
    try:
        from dora.ros2.bridge.run import run

        run(from_json(text, Ros2Block))
    except (DoraError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
