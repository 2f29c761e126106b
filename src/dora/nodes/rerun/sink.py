"""The sink of a viewer node: a new viewer, a running one, a web page or a file."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import rerun as rr

from dora._shared_folders import open_file
from dora.daemon.guardian import RUN_ID
from dora.errors import DoraError
from dora.nodes.rerun.settings import DEFAULT_ADDRESS, ViewerSettings, grpc_url, host_and_port

FLUSH_TIMEOUT = 5.0  # seconds, for a viewer that does not answer


class CannotShow(DoraError):
    """No viewer can be used; ``str(error)`` says why, and what would work."""


@dataclass(frozen=True)
class Sink:
    """The sink of a Rerun recording; ``str(sink)`` describes it. ``viewer`` is host and port of a viewer
    that may be closed."""

    where: str
    viewer: tuple[str, int] | None = None

    def __str__(self) -> str:
        return self.where

    def finish(self, recording: rr.RecordingStream) -> str:
        """Flush the last messages; return why they may be missing, or ""."""
        # Before the flush, which would wait its whole time for a viewer that is gone.
        if self.viewer is not None and not _listens(*self.viewer):
            return "the viewer is gone"
        try:
            recording.flush(timeout_sec=FLUSH_TIMEOUT)
        except (RuntimeError, ValueError) as error:
            return str(error)
        recording.disconnect()
        return ""


def open_sink(recording: rr.RecordingStream, settings: ViewerSettings, dataflow_id: str) -> Sink:
    """Open the sink that the settings ask for; raises `CannotShow`."""
    try:
        match settings.mode:
            case "SPAWN":
                return _spawn(recording, settings)
            case "CONNECT":
                return _connect(recording, settings)
            case "SERVE":
                return _serve(recording, settings)
            case "SAVE":
                return _save(recording, settings, dataflow_id)
    except (RuntimeError, ValueError, OSError) as error:
        if isinstance(error, DoraError):
            raise
        raise CannotShow(f"OPERATING_MODE {settings.mode} does not work here: {error}") from None


def _spawn(recording: rr.RecordingStream, settings: ViewerSettings) -> Sink:
    host, port = host_and_port(DEFAULT_ADDRESS)
    if not _listens(host, port) and not has_display(sys.platform, os.environ):
        raise CannotShow(
            "there is no display to open a viewer on; set OPERATING_MODE to SERVE (a web page), CONNECT "
            "(a viewer on another machine) or SAVE (a file)"
        )
    # The viewer belongs to the user: it outlives the run, even one that is killed.
    os.environ.pop(RUN_ID, None)
    rr.spawn(
        port=port,
        memory_limit=settings.memory_limit,
        executable_path=_program(),
        recording=recording,
    )
    return Sink("showing in a viewer", (host, port))


def _connect(recording: rr.RecordingStream, settings: ViewerSettings) -> Sink:
    url = grpc_url(settings.address)
    viewer = host_and_port(settings.address)
    recording.connect_grpc(url)
    return Sink(f"showing in the viewer at {url}{'' if _listens(*viewer) else ', once it runs'}", viewer)


def _serve(recording: rr.RecordingStream, settings: ViewerSettings) -> Sink:
    _, port = host_and_port(settings.address)
    for needed, variable in ((port, "RERUN_SERVER_ADDR"), (settings.web_port, "RERUN_WEB_PORT")):
        if _listens("127.0.0.1", needed):
            raise CannotShow(f"port {needed} is taken; choose another one with {variable}")
    url = recording.serve_grpc(grpc_port=port, server_memory_limit=settings.memory_limit)
    rr.serve_web_viewer(web_port=settings.web_port, open_browser=False, connect_to=url)
    return Sink(f"showing at http://localhost:{settings.web_port}?url={url}")


def _save(recording: rr.RecordingStream, settings: ViewerSettings, dataflow_id: str) -> Sink:
    path = Path(settings.file or f"out/{dataflow_id}/archive-{dataflow_id}.rrd").expanduser()
    try:
        # Rerun follows links; a file that belongs to this user is none.
        below = str(path.parent) if settings.file else "."
        os.close(open_file(str(path), os.O_WRONLY | os.O_CREAT, below=below))
    except OSError as error:
        raise CannotShow(f"{path} cannot be written: {error.strerror}") from None
    recording.save(path)
    return Sink(f"saving to {path}")


def has_display(platform: str, environ: Mapping[str, str]) -> bool:
    """Return whether a window can be opened."""
    return platform != "linux" or bool(environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY"))


def _listens(host: str, port: int) -> bool:
    try:
        # The limit is for a machine that is off: it refuses nothing, and the system tries for far longer.
        socket.create_connection((host, port), timeout=1.0).close()
    except OSError:
        return False
    return True


def _program() -> str | None:
    beside = os.path.join(os.path.dirname(sys.executable), "rerun")
    return beside if os.access(beside, os.X_OK) else shutil.which("rerun")
