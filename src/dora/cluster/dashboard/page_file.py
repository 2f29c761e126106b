"""The file that leads a browser to the page of a run, for ``--open``.

The address has a ticket, which gives all rights of the page, and every user of a machine can read the
command lines of all others. So the browser gets the path of a file that only this user can read, and the
file sends it on. It is removed with the server of the page, after which its ticket is worthless.
"""

from __future__ import annotations

import contextlib
import os
from html import escape
from urllib.parse import urlsplit

from dora._ownership import open_own
from dora.daemon.run_directory import usable_root

_PAGE = """<!doctype html>
<meta charset="utf-8">
<meta name="referrer" content="no-referrer">
<meta http-equiv="refresh" content="0; url={address}">
<title>dora</title>
<p><a href="{address}">The dashboard</a></p>
"""


def write_page_file(address: str) -> str:
    """Write the file for the address of a page, and return its path; raises `DoraError`, ``OSError``."""
    port = urlsplit(address).port
    assert port is not None
    remove_page_file(port)  # of a server that was killed, as was its run
    path = _path(port)
    with open(open_own(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "w", encoding="utf-8") as file:
        file.write(_PAGE.format(address=escape(address)))
    return path


def remove_page_file(port: int) -> None:
    """Remove the file for the page at a port, if there is one."""
    with contextlib.suppress(OSError):
        os.unlink(_path(port))


def _path(port: int) -> str:
    return f"{usable_root()}/page-{port}.html"
