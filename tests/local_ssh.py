"""A stand-in for ssh: it runs on this machine what should run on another."""

from __future__ import annotations

import sys
from pathlib import Path

SSH = """\
#!/bin/sh
# The command is the last word; what is before it goes to a file.
while [ $# -gt 1 ]; do printf '%s ' "$1" >>"{log}"; shift; done
echo >>"{log}"
exec sh -c "$1"
"""


def write_local_ssh(folder: Path, log: Path) -> None:
    """Write the stand-in and this ``dora`` to a folder for the ``PATH``; calls are written to ``log``."""
    folder.mkdir()
    (folder / "ssh").write_text(SSH.format(log=log))
    (folder / "dora").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m dora "$@"\n')
    for name in ("ssh", "dora"):
        (folder / name).chmod(0o755)
