"""Where running dataflows keep their files: one directory per user, one below it per dataflow."""

from __future__ import annotations

import os
import stat

SOCKET_NAME = "daemon.sock"


def runtime_root() -> str:
    """Return the directory of this user's running dataflows (it need not exist).

    ``$DORA_RUNTIME_DIR`` if set, else ``$XDG_RUNTIME_DIR/dora`` if that directory is usable, else
    ``/tmp/dora-<uid>``. Short, because the path of a socket has at most 107 bytes.
    """
    chosen = os.environ.get("DORA_RUNTIME_DIR")
    if chosen:
        return chosen
    session = os.environ.get("XDG_RUNTIME_DIR")
    if session and len(session) < 40:
        try:
            status = os.stat(session)
        except OSError:
            pass
        else:
            if (
                stat.S_ISDIR(status.st_mode)
                and status.st_uid == os.getuid()
                and os.access(session, os.W_OK)
            ):
                return f"{session}/dora"
    return f"/tmp/dora-{os.getuid()}"


def run_path(dataflow_id: str, root: str | None = None) -> str:
    """Return the directory of a run, by default among this user's."""
    return f"{root or runtime_root()}/{dataflow_id.replace('-', '')[-12:]}"


def link_endpoint(address: str, port: int, *, tls: bool) -> str:
    """Return where a node listens for other machines; see `dora.transport.mailbox`.

    >>> link_endpoint("10.0.0.2", 7000, tls=False), link_endpoint("fd00::2", 7000, tls=True)
    ('tcp/10.0.0.2:7000', 'tls/[fd00::2]:7000')
    """
    host = f"[{address}]" if ":" in address else address
    return f"{'tls' if tls else 'tcp'}/{host}:{port}"
