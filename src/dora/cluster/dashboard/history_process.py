"""Start the process that reads recordings for a page; imports nothing that takes time.

So `dora view` starts it first: the process opens the recordings while the server is imported.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence


def start_history_process(paths: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start `dora.recording.history.worker` for some recordings; it ends with its standard input."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "dora.recording.history.worker", *paths],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # so that Ctrl-C does not end it
    )
