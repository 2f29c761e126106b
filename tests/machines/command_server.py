"""Run commands of dora on a host, one after the other, in one process.

Each line of standard input is a command as JSON; its answer is a line with the exit status and all that the
command printed.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from commands import run_command


def main() -> None:
    """Serve until standard input is closed."""
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)  # what a library writes past `sys.stdout` is no answer
        for line in sys.stdin:
            answers.write(json.dumps(run_command(*json.loads(line), folder=Path.cwd())) + "\n")
            answers.flush()


if __name__ == "__main__":
    main()
