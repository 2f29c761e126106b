"""A folder with a dataflow, and the ``dora`` that runs there."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path


class Flow:
    """A folder with nodes, and the `dora` that runs there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, **files: str) -> None:
        """Write ``name=text`` as ``name.py``, and ``dataflow`` as YAML."""
        for name, text in files.items():
            ending = "yml" if name == "dataflow" else "py"
            (self.folder / f"{name}.{ending}").write_text(textwrap.dedent(text))

    def dora(self, *arguments: str, status: int = 0, **environment: str) -> str:
        """Run a command, expecting this exit status; return all that it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "dora", *arguments],
            cwd=self.folder,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        assert done.returncode == status, f"dora {' '.join(arguments)}: {done.stdout}"
        assert 'File "' not in done.stdout or status, done.stdout
        return done.stdout
