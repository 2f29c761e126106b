"""Run a command of dora that kills itself with SIGKILL just before one of its steps.

A step starts a process, or makes or removes a file of the run. ``killed_at.py STEP FILE COMMAND…`` kills
itself before that step, never for 0. Each step before it is a line of the file.
"""

from __future__ import annotations

import os
import signal
import sys

STEP, FILE, *COMMAND = sys.argv[1:]
PLACES = (os.environ["DORA_RUNTIME_DIR"], "/dev/shm/dora")
ON_FILES = {"os.mkdir", "os.symlink", "os.remove", "os.rmdir", "open", "socket.bind"}
steps = 0
file = os.open(FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def path_of(event: str, arguments: tuple[object, ...]) -> str:
    """Return the path that is about to be made or removed; "" for other events."""
    if event not in ON_FILES:
        return ""
    if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & os.O_CREAT):
        return ""
    path = arguments[1] if event in ("os.symlink", "socket.bind") else arguments[0]
    text = os.fsdecode(path) if isinstance(path, (str, bytes)) else ""
    return text if text.startswith(PLACES) else ""


def audit(event: str, arguments: tuple[object, ...]) -> None:
    global steps
    what = str(arguments[1]) if event == "subprocess.Popen" else path_of(event, arguments)
    if what:
        steps += 1
        if steps == int(STEP):
            os.kill(os.getpid(), signal.SIGKILL)
        os.write(file, f"{event} {what}\n".encode())


sys.addaudithook(audit)
if __name__ == "__main__":
    from dora.cli.main import main

    main(COMMAND)
