"""A template process that the dataflows of all tests of this process share.

They find it where a daemon of the machine would keep one, so it is started and imports its packages once.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from unittest import mock

from dora.daemon.run_directory import usable_root
from dora.daemon.template.process import BACKLOG, start_template, warm_address

_environment: dict[str, str] = {}
_template: subprocess.Popen[bytes] | None = None
_socket = ""  # its name tells the environment that nodes have to have


def remember_environment() -> None:
    """Take the present environment for the template: a test may start it that has changed its own."""
    _environment.update(os.environ)


def share_template(root: str) -> None:
    """Have the dataflows in a folder for ``$DORA_RUNTIME_DIR`` fork their nodes from the template."""
    if not sys.platform.startswith("linux"):
        return
    _start()
    with mock.patch.dict(os.environ, DORA_RUNTIME_DIR=root):
        link = f"{usable_root()}/{os.path.basename(_socket)}"
    if not os.path.exists(link):
        os.link(_socket, link)


def left_by_runs(root: str) -> set[str]:
    """Return what runs have left in such a folder: all but its lock and the shared template."""
    return {name for name in os.listdir(root) if name != "lock" and not name.startswith("template-")}


def _start() -> None:
    global _template, _socket
    if _template is not None and _template.poll() is None:
        return
    end_template()
    folder = tempfile.mkdtemp(prefix="dora-test-", dir="/tmp")
    with mock.patch.dict(os.environ, {**_environment, "DORA_RUNTIME_DIR": folder}, clear=True):
        _socket = warm_address()
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(_socket)
            listener.listen(BACKLOG)
            _template = start_template(listener)


def end_template() -> None:
    global _template
    if _template is not None:
        _template.kill()
        _template.wait()
        _template = None
        shutil.rmtree(os.path.dirname(_socket))
