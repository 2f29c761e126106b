"""A stand-in for ssh: it runs on this machine what should run on another."""

from __future__ import annotations

import sys
from pathlib import Path

from dora.cluster.ssh.environment import name_of_environment

SSH = """\
#!/bin/sh
# The command is the last word; what is before it goes to a file.
while [ $# -gt 1 ]; do printf '%s ' "$1" >>"{log}"; shift; done
echo >>"{log}"
XDG_CACHE_HOME="{folder}/cache" exec sh -c "$1"
"""


def write_local_ssh(folder: Path, log: Path) -> None:
    """Write the stand-in and this ``dora`` to a folder for the ``PATH``; calls are written to ``log``.

    The other machine has an environment with this dora, as after the first ``dora run --on``.
    """
    folder.mkdir()
    environment = folder / "cache" / "dora" / "environments" / name_of_environment() / "bin"
    environment.mkdir(parents=True)
    dora = f'#!/bin/sh\nexec "{sys.executable}" -m dora "$@"\n'
    programs = {
        folder / "ssh": SSH.format(log=log, folder=folder),
        folder / "dora": dora,
        environment / "dora": dora,
        environment / "python": f'#!/bin/sh\nexec "{sys.executable}" "$@"\n',
    }
    for path, text in programs.items():
        path.write_text(text)
        path.chmod(0o755)
