"""A stand-in for ssh: it runs on this machine what should run on another."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

SSH = """\
#!/bin/sh
# The command is the last word; what is before it goes to a file.
while [ $# -gt 1 ]; do printf '%s ' "$1" >>"{log}"; shift; done
echo >>"{log}"
exec sh -c "$1"
"""


@pytest.fixture
def local_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the stand-in and this dora on the PATH; return the file that lists the calls."""
    binaries, log = tmp_path / "bin", tmp_path / "ssh.log"
    binaries.mkdir()
    (binaries / "ssh").write_text(SSH.format(log=log))
    (binaries / "ssh").chmod(0o755)
    (binaries / "dora").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m dora "$@"\n')
    (binaries / "dora").chmod(0o755)
    monkeypatch.setenv("PATH", f"{binaries}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("DORA_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("HOME", str(tmp_path))
    return log
