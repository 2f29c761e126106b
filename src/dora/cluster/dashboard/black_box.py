"""The black box of a running dataflow, for its page: look at its content, and save it."""

from __future__ import annotations

import os

from dora.cluster.refusal import Refusal
from dora.daemon.client import DaemonClient
from dora.errors import ConnectError, DoraError
from dora.recording.mcap.process_folder import make_folder, remove_folder
from dora.wire.black_box import SavedBlackBox
from dora.wire.daemon_protocol import SAVE_TIMEOUT, SaveBlackBox


def save(socket: str, path: str = "", note: str = "") -> str:
    """Write the black box of a run to a file, and return its path.

    ``path`` "": a file of the run, which its report names. ``note`` is a mark in the file. Raises
    `DoraError`.
    """
    try:
        with DaemonClient(socket) as run:
            run.set_patience(SAVE_TIMEOUT)
            answer = run.ask(SaveBlackBox(path=path, note=note))
            assert isinstance(answer, SavedBlackBox)
    except ConnectError:
        raise Refusal(409, "the dataflow has just ended; its recordings are in its folder") from None
    if not answer.path:
        raise DoraError(f"the black box was not saved: {answer.problem}")
    return answer.path


class PastFiles:
    """Files with the content of black boxes, for as long as a page looks at them."""

    def __init__(self) -> None:
        self._folder = ""
        self._count = 0

    def write(self, socket: str) -> str:
        """Write the black box of a run to a file that is not one of its recordings; raises `DoraError`."""
        self._folder = self._folder or make_folder("past")
        self._count += 1
        return save(socket, os.path.join(self._folder, f"{self._count}.mcap"))

    def close(self) -> None:
        """Remove all files."""
        if self._folder:
            remove_folder(self._folder)
            self._folder = ""
