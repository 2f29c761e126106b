"""The lock of a dataflow, ``<name>.dora-lock.yaml``: the commit of each node from a repository.

``dora build --write-lockfile`` writes it; keep it beside the dataflow file. ``dora build --locked`` builds
these commits, even if branches and tags have moved since. The format is that of dora-rs. Its
``descriptor_fingerprint`` is the 64-bit FNV-1a of the repositories and versions that the dataflow file
names, so a lock for another version of the file is refused as a whole.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Annotated

import msgspec

from dora.daemon.build.build import BuildOptions, Built, build_programs
from dora.daemon.build.session_file import GitCommit, fnv1a, git_sources
from dora.daemon.logs.entry import LogEntry
from dora.dataflow.model import Dataflow, GitSource, NodeSpec
from dora.dataflow.parser.files import Unreadable, read_text
from dora.dataflow.parser.programs import pinned
from dora.errors import BuildError
from dora.wire.decoders import from_plain

VERSION = 2
MAX_LOCK = 1 << 20  # bytes
_MEND = "write it anew with `dora build --write-lockfile`"

_Commit = Annotated[str, msgspec.Meta(pattern="^([0-9a-f]{40}|[0-9a-f]{64})$")]


class Lock(msgspec.Struct, frozen=True):
    """The use of a dataflow's lock file. ``path`` "": beside the dataflow file."""

    read: bool = False
    write: bool = False
    path: str = ""


class _Source(msgspec.Struct, frozen=True):
    repo: str
    commit_hash: _Commit


class _File(msgspec.Struct, frozen=True):
    version: int
    descriptor_fingerprint: str = ""
    git_sources: dict[str, _Source] = {}


def build_locked(
    dataflow: Dataflow, on_log: Callable[[LogEntry], None], options: BuildOptions, lock: Lock
) -> Built:
    """Build like `build_programs`, and read or write the lock. Raises `BuildError`."""
    path = os.path.abspath(lock.path) if lock.path else lock_path(dataflow)
    if lock.read:
        commits = read_lock(dataflow, path)
        built = build_programs(with_commits(dataflow, commits), on_log, options)
        _check(built.dataflow, commits)
    else:
        built = build_programs(dataflow, on_log, options)
    if lock.write:
        write_lock(dataflow, git_sources(built.dataflow), path)
    return built


def lock_path(dataflow: Dataflow) -> str:
    """Return where the lock of a dataflow is by default."""
    return f"{dataflow.working_dir}/{dataflow.file_stem}.dora-lock.yaml"


def read_lock(dataflow: Dataflow, path: str) -> dict[str, str]:
    """Return node → commit for all nodes from repositories.

    Raises `BuildError` if there is no lock, or it is not one of this dataflow.
    """
    import yaml

    try:
        if not os.path.exists(path):
            raise BuildError(f"there is no lockfile {path}; {_MEND}")
        text = read_text(path, path, MAX_LOCK)
        lock = from_plain(yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)), _File)
    except Unreadable as error:
        raise BuildError(f"the lockfile cannot be read: {error}") from None
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise BuildError(f"the lockfile {path} is not understood: {reason}; {_MEND}") from None
    if lock.version != VERSION:
        raise BuildError(f"the lockfile {path} has version {lock.version}, and not {VERSION}; {_MEND}")
    sources = {node.id: node.git.repository for node in dataflow.nodes if node.git}
    known = {node_id: source.repo for node_id, source in lock.git_sources.items()}
    if lock.descriptor_fingerprint != fingerprint(dataflow) or not sources.items() <= known.items():
        raise BuildError(
            f"the dataflow file names other repositories, branches, tags or commits than when the lockfile "
            f"{path} was written; {_MEND}"
        )
    return {node_id: lock.git_sources[node_id].commit_hash for node_id in sources}


def with_commits(dataflow: Dataflow, commits: Mapping[str, str]) -> Dataflow:
    """Return the dataflow with these commits for its nodes, in clones of their own."""

    def locked(node: NodeSpec) -> NodeSpec:
        if node.git is None:
            return node
        return msgspec.structs.replace(node, git=pinned(node.git, commits[node.id]))

    return msgspec.structs.replace(dataflow, nodes=tuple(map(locked, dataflow.nodes)))


def _check(dataflow: Dataflow, commits: Mapping[str, str]) -> None:
    sources = git_sources(dataflow)
    for node_id, wanted in commits.items():
        found = sources[node_id].commit_hash if node_id in sources else "one that git does not tell"
        if found != wanted:
            folder = dataflow.directory_of(dataflow.node(node_id))
            raise BuildError(
                f"the clone {folder} of node `{node_id}` is at commit {found}, and the lockfile wants "
                f"{wanted}; remove the folder, to have it cloned again"
            )


def write_lock(dataflow: Dataflow, sources: Mapping[str, GitCommit], path: str) -> None:
    """Write the lock of a dataflow; raises `BuildError` if that is not possible."""
    import yaml

    for node in dataflow.nodes:
        if node.git is not None and node.id not in sources:
            raise BuildError(f"node `{node.id}` is not locked: git does not know the commit of its clone")
    file = {
        "version": VERSION,
        "descriptor_fingerprint": fingerprint(dataflow),
        "git_sources": {node_id: msgspec.to_builtins(sources[node_id]) for node_id in sorted(sources)},
    }
    try:
        with open(path, "w", encoding="utf-8") as out:
            yaml.safe_dump(file, out, sort_keys=False, allow_unicode=True)
    except OSError as error:
        raise BuildError(f"the lockfile {path} cannot be written: {error.strerror}") from None


def fingerprint(dataflow: Dataflow) -> str:
    """Return 16 hexadecimal digits that say which repositories and versions a dataflow file names."""
    lines = [f"dora-lockfile-v{VERSION}"]
    for node in sorted(dataflow.nodes, key=lambda node: node.id):
        if node.git is not None:
            lines += [node.id, node.git.repository, _version(node.git)]
    return fnv1a("".join(f"{line}\n" for line in lines).encode())


def _version(source: GitSource) -> str:
    for kind in ("branch", "tag", "rev"):
        if (value := getattr(source, kind)) is not None:
            return f"{kind}:{value}"
    return "head:"
