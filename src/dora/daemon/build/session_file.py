"""The session file of a dataflow, ``out/<name>.dora-session.yaml``: what was built, and from which sources.

It has the keys of dora-rs, for tools that read them. No run needs it: every start builds, and a lost or
damaged file is written again. It contains the commits of the nodes and the id of the build, which log
entries in JSON have too, so two runs of the same build can be recognized.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Annotated, Any

import msgspec

from dora._shared_folders import write_file
from dora.daemon.logs.diagnostics import debug_log
from dora.daemon.logs.entry import LogEntry
from dora.daemon.processes.interpreter import environment_folder
from dora.dataflow.model import Dataflow, NodeSpec
from dora.dataflow.yaml.files import read_bytes
from dora.wire.correlation import uuid7
from dora.wire.decoders import DecodeError, from_plain

_MOST = 1 << 20  # bytes; a larger file counts as damaged, and is written again

Id = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]


class GitCommit(msgspec.Struct, frozen=True):
    """The commit of a repository that a node was built from."""

    repo: str
    commit_hash: str


class LocalBuild(msgspec.Struct, frozen=True):
    """Where the nodes run that were built here, and the Python environments that some of them have."""

    node_working_dirs: dict[str, str] = {}
    python_env_dirs: dict[str, str] = {}
    confined_nodes: list[str] = []  # nodes from the hub of dora-rs; there are none


class SessionFile(msgspec.Struct, frozen=True, kw_only=True):
    """``build_id`` is the same for as long as ``build_fingerprint`` and ``git_sources`` are."""

    build_id: Id | None = None
    session_id: Id
    git_sources: dict[str, GitCommit] = {}
    local_build: LocalBuild | None = None
    build_fingerprint: str | None = None


def session_path(dataflow: Dataflow) -> str:
    """Return the path of the session file of a dataflow."""
    return session_path_of(dataflow.working_dir, dataflow.file_stem)


def session_path_of(working_dir: str, file_stem: str) -> str:
    """Return the path of the session file of a dataflow file; ``file_stem``: its name without ending."""
    return f"{working_dir}/out/{file_stem}.dora-session.yaml"


def record_build(dataflow: Dataflow, on_log: Callable[[LogEntry], None], *, uv: bool) -> str | None:
    """Record a build on this machine in the session file, and return the id of the build.

    If the file cannot be written, or was damaged, ``on_log`` gets a warning; the run goes on.
    """

    def warn(text: str) -> None:
        on_log(LogEntry(time.time_ns(), "warn", None, text, "daemon"))

    path = session_path(dataflow)
    before = read_session(path)
    if before is None and os.path.exists(path):
        warn(f"{path} is no session of a dataflow; it is written again")
    now = _session_of(dataflow, before, uv)
    if (log := debug_log("dora.build")) is not None:
        log.debug("build %s: %s", now.build_id, _difference(before, now))
    if now != before:
        try:
            _write(path, now)
        except OSError as error:
            warn(f"the build cannot be recorded in {path}: {error.strerror}")
    return now.build_id


def read_session(path: str) -> SessionFile | None:
    """Return the session in a file, None if there is none or it is damaged."""
    import yaml  # only processes that build pay for it

    try:
        text = read_bytes(path, _MOST).decode()
        return from_plain(yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)), SessionFile)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, DecodeError, RecursionError):
        return None


def _session_of(dataflow: Dataflow, before: SessionFile | None, uv: bool) -> SessionFile:
    fingerprint = build_fingerprint(dataflow, uv=uv)
    sources = git_sources(dataflow)
    build_id = None
    if before is not None and (before.build_fingerprint, before.git_sources) == (fingerprint, sources):
        build_id = before.build_id
    environments = {node.id: environment_folder(dataflow, node, uv=uv) for node in dataflow.nodes}
    return SessionFile(
        session_id=before.session_id if before is not None else uuid7(),
        build_id=build_id or uuid7(),
        git_sources=sources,
        local_build=LocalBuild(
            {node.id: dataflow.directory_of(node) for node in dataflow.nodes},
            {node_id: folder for node_id, folder in environments.items() if folder},
        ),
        build_fingerprint=fingerprint,
    )


def _difference(before: SessionFile | None, now: SessionFile) -> str:
    """Return how a build differs from the one before."""
    if before is None or before.build_id is None:
        return "the first one of this dataflow file"
    if before.build_id == now.build_id:
        return "the same as before"
    if before.build_fingerprint != now.build_fingerprint:
        return f"its inputs differ from build {before.build_id}"
    return f"repositories have moved since build {before.build_id}"


def git_sources(dataflow: Dataflow) -> dict[str, GitCommit]:
    """Return the commit of the clone of each node from a repository, if it is known."""
    if not any(node.git for node in dataflow.nodes):
        return {}
    from dora.daemon.build.node_sources import commit_of

    return {
        node.id: GitCommit(node.git.repository, commit)
        for node in dataflow.nodes
        if node.git is not None and (commit := commit_of(dataflow.directory_of(node)))
    }


def build_fingerprint(dataflow: Dataflow, *, uv: bool) -> str:
    """Return 16 hexadecimal digits that change with the inputs of a build only."""
    inputs = [_build_inputs(dataflow, node) for node in sorted(dataflow.nodes, key=lambda node: node.id)]
    return fnv1a(msgspec.json.encode([uv, inputs]))


def fnv1a(data: bytes) -> str:
    """Return the 64-bit FNV-1a of bytes, in 16 hexadecimal digits; `hashlib` would take 2 ms to load.

    >>> fnv1a(b""), fnv1a(b"a")
    ('cbf29ce484222325', 'af63dc4c8601ec8c')
    """
    digest = 0xCBF29CE484222325
    for byte in data:
        digest = (digest ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{digest:016x}"


def _build_inputs(dataflow: Dataflow, node: NodeSpec) -> list[Any]:
    env = sorted({**dataflow.env, **node.env}.items())
    return [node.id, node.build, node.git, node.downloads, node.python, node.deploy.working_dir, env]


def _write(path: str, session: SessionFile) -> None:
    """Write the file atomically; raises ``OSError``."""
    import yaml

    text = yaml.safe_dump(msgspec.to_builtins(session), sort_keys=False, allow_unicode=True)
    write_file(path, text.encode(), below=os.path.dirname(os.path.dirname(path)))
