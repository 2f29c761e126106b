"""The process that shows a run of this process in Foxglove: ``dora run --foxglove``."""

from __future__ import annotations

import subprocess
import sys
from typing import Self

from dora._paths import SOCKET_NAME
from dora.nodes.foxglove.address import check_address, default_address
from dora.nodes.installed import check_installed


class FoxgloveProcess:
    """Shows a run, and does not outlive it; ``with`` waits until the last messages are shown.

    The dataflow does not wait for it, as it is a process of its own. Its standard input ends with this one.
    """

    def __init__(self) -> None:
        """Raise `DoraError` if Foxglove cannot be served, before the dataflow is built."""
        check_installed("dora-foxglove")
        check_address(default_address())
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, run_dir: str, log_directory: str) -> None:
        """Start the process, which waits until the run answers."""
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-P",
                "-m",
                "dora.nodes.foxglove.beside",
                f"{run_dir}/{SOCKET_NAME}",
                log_directory,
            ],
            stdin=subprocess.PIPE,
            start_new_session=True,  # so that Ctrl-C goes to the run only
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.communicate()
