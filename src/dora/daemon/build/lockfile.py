"""The lock of a dataflow, ``<name>.dora-lock.yaml``: the commit of each node from a repository.

``dora build --write-lockfile`` writes it; keep it beside the dataflow file. ``dora build --locked`` builds
these commits, even if branches and tags have moved since. dora-rs has the same format. Its
``descriptor_fingerprint`` is the 64-bit FNV-1a of the repositories and versions that the dataflow file
names, so a lock for another version of the file is refused as a whole. Passwords and tokens in addresses
are left out of both, so the lock can be published, and holds for users with other tokens.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated

import msgspec

from dora._shared_folders import open_file
from dora.daemon.build.session_file import GitCommit, fnv1a, git_sources
from dora.dataflow.addresses import without_user
from dora.dataflow.model import Dataflow, GitSource, NodeSpec
from dora.dataflow.parser.program_sources import pinned
from dora.dataflow.yaml.files import Unreadable, read_text
from dora.errors import BuildError
from dora.wire.decoders import from_plain

VERSION = 2
MAX_LOCK = 1 << 20  # bytes; a larger file is refused
_MEND = "write it anew with `dora build --write-lockfile`"


class _Source(msgspec.Struct, frozen=True):
    repo: str
    commit_hash: Annotated[str, msgspec.Meta(pattern="^([0-9a-f]{40}|[0-9a-f]{64})$")]


class _LockfileContent(msgspec.Struct, frozen=True):
    version: int
    descriptor_fingerprint: str = ""
    git_sources: dict[str, _Source] = {}


class Lock(msgspec.Struct, frozen=True):
    """The use of a dataflow's lockfile. ``path`` "": beside the dataflow file."""

    read: bool = False
    write: bool = False
    path: str = ""

    def pin(self, dataflow: Dataflow) -> Dataflow:
        """Return the dataflow to build: with the commits of the lockfile if it is read.

        Raises `BuildError`.
        """
        return with_commits(dataflow, read_lock(dataflow, self._path(dataflow))) if self.read else dataflow

    def confirm(self, dataflow: Dataflow, built: Dataflow) -> None:
        """Check that the commits of the lockfile were built, or write those that were.

        Raises `BuildError`.
        """
        commits = git_sources(built)
        if self.read:
            _check(built, commits)
        if self.write:
            write_lock(dataflow, commits, self._path(dataflow))

    def _path(self, dataflow: Dataflow) -> str:
        """Return the path of the lockfile of a dataflow."""
        default = f"{dataflow.working_dir}/{dataflow.file_stem}.dora-lock.yaml"
        return os.path.abspath(self.path) if self.path else default


def read_lock(dataflow: Dataflow, path: str) -> dict[str, str]:
    """Return node → commit for all nodes from repositories.

    Raises `BuildError` if there is no lock, or it is not one of this dataflow.
    """
    import yaml

    try:
        if not os.path.exists(path):
            raise BuildError(f"there is no lockfile {path}; {_MEND}")
        text = read_text(path, path, MAX_LOCK)
        lock = from_plain(yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)), _LockfileContent)
    except Unreadable as error:
        raise BuildError(f"the lockfile cannot be read: {error}") from None
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise BuildError(f"the lockfile {path} is not understood: {reason}; {_MEND}") from None
    if lock.version != VERSION:
        raise BuildError(f"the lockfile {path} has version {lock.version}, and not {VERSION}; {_MEND}")
    sources = {node.id: node.git.repository for node in dataflow.nodes if node.git}
    known = {node_id: without_user(source.repo) for node_id, source in lock.git_sources.items()}
    # dora-rs, and dora before it left them out, count passwords in.
    fitting = (fingerprint(dataflow), fingerprint(dataflow, with_passwords=True))
    if lock.descriptor_fingerprint not in fitting or not sources.items() <= known.items():
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


def _check(dataflow: Dataflow, commits: Mapping[str, GitCommit]) -> None:
    """Raise `BuildError` if a clone is not what the lock wants: the commit, with its files unchanged."""
    from dora.daemon.build.node_sources import has_changed_files

    for node in dataflow.nodes:
        if node.git is None:
            continue
        found = commits[node.id].commit_hash if node.id in commits else "one that git does not tell"
        if found != node.git.rev:
            raise BuildError(
                f"the clone {dataflow.directory_of(node)} of node `{node.id}` is at commit {found}, and "
                f"the lockfile wants {node.git.rev}; remove the folder, to have it cloned again"
            )
        if has_changed_files(dataflow.directory_of(node)):
            raise BuildError(
                f"the clone {dataflow.directory_of(node)} of node `{node.id}` has changed files, and the "
                f"lockfile wants commit {node.git.rev} as it is; remove the folder, to have it cloned again"
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
        text = yaml.safe_dump(file, sort_keys=False, allow_unicode=True)
        with open(open_file(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "w", encoding="utf-8") as out:
            out.write(text)
    except OSError as error:
        raise BuildError(f"the lockfile {path} cannot be written: {error.strerror}") from None


def fingerprint(dataflow: Dataflow, *, with_passwords: bool = False) -> str:
    """Return 16 hexadecimal digits that say which repositories and versions a dataflow file names."""
    lines = [f"dora-lockfile-v{VERSION}"]
    for node in sorted(dataflow.nodes, key=lambda node: node.id):
        if node.git is not None:
            address = node.git.secret_address if with_passwords else node.git.repository
            lines += [node.id, address, _version(node.git)]
    return fnv1a("".join(f"{line}\n" for line in lines).encode())


def _version(source: GitSource) -> str:
    for kind in ("branch", "tag", "rev"):
        if (value := getattr(source, kind)) is not None:
            return f"{kind}:{value}"
    return "head:"
