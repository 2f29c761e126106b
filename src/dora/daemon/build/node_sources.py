"""Sources of nodes: clones of git repositories, and downloaded files, below the dataflow's folder.

There is one clone per repository and commit.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from typing import IO

from dora._shared_folders import check_folder_if_there, make_folder, open_file
from dora.daemon.build.subprocesses import BuildLog, CommandFailed, Processes, quoted
from dora.daemon.work import Work, git_progress
from dora.dataflow.model import Dataflow, Download, GitSource, NodeSpec
from dora.errors import BuildError, system_fault

# Protocols of addresses, also of submodules: git has helper programs that run any command. The variable
# GIT_ALLOW_PROTOCOL takes precedence.
_ALLOWED = {"https": "always", "http": "always", "ssh": "always", "git": "always", "file": "user"}
_SETTINGS = ("protocol.allow=never", *(f"protocol.{name}.allow={when}" for name, when in _ALLOWED.items()))
_PROTOCOLS = tuple(word for setting in _SETTINGS for word in ("-c", setting))

_COMMIT_FILE = ".git/dora-commit"  # contains the commit that dora checked out


def ensure_clone(
    dataflow: Dataflow, node: NodeSpec, processes: Processes, log: BuildLog, *, update: bool, offline: bool
) -> None:
    """Clone the repository of a node unless it is there; raises `BuildError`.

    With ``update``, a clone that follows a branch is brought to its newest commit, unless ``offline``.
    A clone with changes of the user is never touched.
    """
    assert node.git is not None
    clone = _Clone(dataflow, node, node.git, processes, log)
    check_folder_if_there(clone.folder, below=dataflow.working_dir)
    if not os.path.isdir(f"{clone.folder}/.git"):
        if offline:
            raise BuildError(f"{clone.what} is not cloned yet, and --offline forbids to fetch it")
        clone.make()
    elif update and not offline and not (node.git.tag or node.git.rev):
        clone.update()


def commit_of(folder: str) -> str:
    """Return the commit that is checked out in a clone, "" if it is not known."""
    try:
        with open(f"{folder}/.git/HEAD", encoding="utf-8") as file:
            head = file.read().strip()
        if not head.startswith("ref:"):  # as `ensure_clone` leaves it
            return head
        words = ["git", "rev-parse", "HEAD"]
        done = subprocess.run(words, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


class _Clone:
    def __init__(
        self, dataflow: Dataflow, node: NodeSpec, source: GitSource, processes: Processes, log: BuildLog
    ) -> None:
        self.folder = dataflow.directory_of(node)
        self.what = f"{node.place or '<dataflow>'}: the repository {source.repository} of node `{node.id}`"
        self._source = source
        self._beside = dataflow.working_dir
        self._processes = processes
        self._log = log
        self._work = Work()
        # The messages of git, which `git_progress` reads, are in English then.
        self._env: Mapping[str, str] = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "LC_MESSAGES": "C"}

    def make(self) -> None:
        source = self._source
        self._work = self._log.begin(f"cloning {source.repository}")
        above = os.path.dirname(self.folder)
        make_folder(above, below=self._beside)
        # If this fails, no half clone may be left where a complete one is expected.
        with tempfile.TemporaryDirectory(prefix=".clone-", dir=above) as unfinished:
            self._git(
                "clone",
                "--progress",
                "--no-checkout",
                "--",
                source.repository,
                unfinished,
                cwd=self._beside,
            )
            self._check_out(unfinished)
            try:
                os.rename(unfinished, self.folder)  # in place of an empty folder, too
            except OSError:
                raise BuildError(
                    f"{self.what} cannot be cloned, because {self.folder} exists and is no clone; "
                    "move it elsewhere"
                ) from None
            os.mkdir(unfinished)  # for the end of this block to remove

    def update(self) -> None:
        if self._git("status", "--porcelain") or self._head() != self._recorded_commit():
            raise BuildError(
                f"{self.what} is not brought up to date, because {self.folder} has changes of yours; "
                "push them and remove the folder, or give the node a `path` to it instead of `git`"
            )
        self._git("fetch", "--progress", "--prune", "--tags", "--force", "origin")
        before = self._head()
        self._check_out(self.folder)
        if self._head() != before:
            self._log.write(f"{self._source.repository} is now at {self._head()[:12]}")

    def _check_out(self, folder: str) -> None:
        source = self._source
        if source.branch:
            commit = f"origin/{source.branch}"
        elif source.tag:
            commit = f"refs/tags/{source.tag}"
        else:
            commit = source.rev or "origin/HEAD"
        self._git("checkout", "--quiet", "--progress", "--detach", commit, "--", cwd=folder)
        if os.path.exists(f"{folder}/.gitmodules"):
            self._git("submodule", "update", "--progress", "--init", "--recursive", cwd=folder)
        with open(f"{folder}/{_COMMIT_FILE}", "w", encoding="utf-8") as note:
            note.write(self._git("rev-parse", "HEAD", cwd=folder)[0])

    def _head(self) -> str:
        return self._git("rev-parse", "HEAD")[0]

    def _recorded_commit(self) -> str:
        try:
            with open(f"{self.folder}/{_COMMIT_FILE}", encoding="utf-8") as note:
                return note.read()
        except OSError:
            return ""

    def _git(self, *words: str, cwd: str | None = None) -> list[str]:
        if shutil.which("git") is None:
            raise BuildError(f"{self.what} needs the program `git`, which is not installed")
        try:
            return self._processes.run(
                ["git", *_PROTOCOLS, *words],
                what="git",
                cwd=cwd or self.folder,
                env=self._env,
                log=None,
                read=git_progress(self._work),
            )
        except CommandFailed as error:
            message = f"{self.what} cannot be used: git {words[0]} failed{quoted(error.lines)}"
            raise BuildError(message) from None


# --------------------------------------------------------------------------- downloads

TIMEOUT = 60.0  # seconds without any byte
_CHUNK = 1 << 16
MAX_SIZE = 1 << 30  # bytes


def ensure_download(
    dataflow: Dataflow,
    node: NodeSpec,
    path: str,
    source: Download,
    log: BuildLog,
    *,
    update: bool,
    offline: bool,
) -> None:
    """Download a file of a node to ``path`` unless it is there; raises `BuildError`.

    With a checksum, a file that does not have it is never left in place. Without one, ``update``
    downloads again what is there already, unless ``offline``.
    """
    path = os.path.join(dataflow.working_dir, path)
    what = f"{node.place or '<dataflow>'}: {source.url}, which node `{node.id}` runs,"
    if _is_there(path, dataflow.working_dir):
        if source.sha256 is not None and _digest(path) == source.sha256:
            return
        if source.sha256 is None and (offline or not update):
            return
    if offline:
        raise BuildError(f"{what} is not downloaded yet, and --offline forbids to fetch it")
    work = log.begin(f"downloading {source.url}")
    unfinished = f"{path}.{os.getpid()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    try:
        with open(open_file(unfinished, flags, below=dataflow.working_dir), "wb") as file:
            fetch(source.url, file, work=work)
        found = _digest(unfinished)
        if source.sha256 is not None and found != source.sha256:
            raise BuildError(f"{what} has a wrong checksum: its SHA-256 is {found}")
        os.chmod(unfinished, 0o755)
        os.replace(unfinished, path)
    except OSError as error:
        raise BuildError(f"{what} cannot be downloaded: {system_fault(error)}") from None
    except FetchFailed as error:
        raise BuildError(f"{what} cannot be downloaded: {error}") from None
    finally:
        if os.path.exists(unfinished):
            os.unlink(unfinished)


def _is_there(path: str, working_dir: str) -> bool:
    """Return whether a file is there; raises ``OSError`` for one that another user may have put there."""
    try:
        os.close(open_file(path, os.O_RDONLY, below=working_dir))
    except FileNotFoundError:
        return False
    return True


class FetchFailed(Exception):
    """A download failed; ``str(error)`` is the reason."""


def fetch(url: str, file: IO[bytes], max_size: int = MAX_SIZE, work: Work | None = None) -> None:
    """Write what is at a URL into a file; raises `FetchFailed`, also for more than ``max_size`` bytes.

    ``work`` is told how much there is, if the server says so.
    """
    from http.client import HTTPException
    from urllib.error import HTTPError, URLError
    from urllib.request import urlopen

    try:
        with urlopen(url, timeout=TIMEOUT) as response:
            size = 0
            if work is not None:
                work.expect(response.length or 0)
            while chunk := response.read(_CHUNK):
                size += len(chunk)
                if size > max_size:
                    raise FetchFailed(f"it is larger than {max_size >> 20} MiB")
                file.write(chunk)
                if work is not None:
                    work.advance(len(chunk))
    except HTTPError as error:
        raise FetchFailed(f"the server says {error.code} {error.reason}") from None
    except URLError as error:
        raise FetchFailed(getattr(error.reason, "strerror", None) or str(error.reason)) from None
    except (OSError, HTTPException, ValueError) as error:
        raise FetchFailed(str(error)) from None


def _digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
