"""Sources of nodes: clones of git repositories, and downloaded files, below the dataflow's folder.

There is one clone per repository and commit.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from contextlib import suppress
from typing import IO

from dora._shared_folders import check_folder_if_there, make_folder, open_file
from dora.daemon.build.file_lock import locked
from dora.daemon.build.subprocesses import BuildLog, CommandFailed, Processes, quoted
from dora.daemon.work import Work, git_progress
from dora.dataflow.addresses import without_user
from dora.dataflow.model import Dataflow, Download, GitSource, NodeSpec
from dora.errors import BuildError, system_fault

# Protocols of addresses, also of submodules: git has helper programs that run any command. The variable
# GIT_ALLOW_PROTOCOL takes precedence.
_ALLOWED = {"https": "always", "http": "always", "ssh": "always", "git": "always", "file": "user"}
_SETTINGS = ("protocol.allow=never", *(f"protocol.{name}.allow={when}" for name, when in _ALLOWED.items()))
_PROTOCOLS = tuple(word for setting in _SETTINGS for word in ("-c", setting))

# Variables that lead git to another repository than the one in its folder, as git sets them for a hook. The
# two with settings (GIT_CONFIG_COUNT, GIT_CONFIG_PARAMETERS) stay: git passes them on to submodules, too.
_OTHER_REPOSITORY_TEXT = """
GIT_ALTERNATE_OBJECT_DIRECTORIES GIT_COMMON_DIR GIT_CONFIG GIT_DIR GIT_GRAFT_FILE GIT_IMPLICIT_WORK_TREE
GIT_INDEX_FILE GIT_INTERNAL_SUPER_PREFIX GIT_NAMESPACE GIT_NO_REPLACE_OBJECTS GIT_OBJECT_DIRECTORY
GIT_PREFIX GIT_QUARANTINE_PATH GIT_REPLACE_REF_BASE GIT_SHALLOW_FILE GIT_WORK_TREE
"""
_OTHER_REPOSITORY = frozenset(_OTHER_REPOSITORY_TEXT.split())

_COMMIT_FILE = ".git/dora-commit"  # contains the commit that dora checked out
# Contains the commit that dora is about to check out; it is there until that is done.
_UPDATE_FILE = ".git/dora-update"


def ensure_clone(
    dataflow: Dataflow, node: NodeSpec, processes: Processes, log: BuildLog, *, update: bool, offline: bool
) -> None:
    """Clone the repository of a node unless it is there; raises `BuildError`.

    With ``update``, a clone that follows a branch is brought to its newest commit, unless ``offline``.
    A clone with changes of the user is never touched. An update that was cut off is taken back first.
    """
    assert node.git is not None
    clone = _Clone(dataflow, node, node.git, processes, log)
    check_folder_if_there(clone.folder, below=dataflow.working_dir)
    update = update and not offline and not (node.git.tag or node.git.rev)
    if not update and clone.is_there() and not clone.is_half_updated():
        return  # without the lock: a run needs no write access
    above, name = os.path.split(clone.folder)
    make_folder(above, below=dataflow.working_dir)
    # Two builds would clone to the same place, or check out different commits of one clone.
    with locked(f"{above}/.{name}.lock"):
        if not clone.is_there():
            if offline:
                raise BuildError(f"{clone.what} is not cloned yet, and --offline forbids to fetch it")
            clone.make()
            return
        if clone.is_half_updated():
            clone.take_back()
        if update:
            clone.update()


def commit_of(folder: str) -> str:
    """Return the commit that is checked out in a clone, "" if it is not known."""
    try:
        with open(f"{folder}/.git/HEAD", encoding="utf-8") as file:
            head = file.read().strip()
        if not head.startswith("ref:"):  # as `ensure_clone` leaves it
            return head
        return _ask_git(folder, "rev-parse", "HEAD").strip()
    except OSError:
        return ""


def has_changed_files(folder: str) -> bool:
    """Return whether a file of the commit that is checked out has changed, or git cannot tell.

    New files do not count: build commands and nodes write some.
    """
    words = ("status", "--porcelain", "--untracked-files=no", "--ignore-submodules=untracked")
    try:
        return bool(_ask_git(folder, *words))
    except OSError:
        return True


def _ask_git(folder: str, *words: str) -> str:
    """Return the output of git in a clone; raises ``OSError`` if it fails."""
    done = subprocess.run(
        ["git", *words],
        cwd=folder,
        env=_environment(folder),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
    )
    if done.returncode != 0:
        raise OSError(f"git {words[0]} failed")
    return done.stdout


def _environment(folder: str) -> dict[str, str]:
    """Return the variables for git in a clone: it must not work on a repository around the clone."""
    variables = {name: value for name, value in os.environ.items() if name not in _OTHER_REPOSITORY}
    return variables | {"GIT_CEILING_DIRECTORIES": os.path.dirname(folder), "GIT_TERMINAL_PROMPT": "0"}


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
        self._env = _environment(self.folder) | {"LC_MESSAGES": "C"}

    def is_there(self) -> bool:
        return os.path.isdir(f"{self.folder}/.git")

    def is_half_updated(self) -> bool:
        """Return whether an update has begun and not ended: it was cut off, or runs elsewhere."""
        return os.path.lexists(f"{self.folder}/{_UPDATE_FILE}")

    def make(self) -> None:
        source = self._source
        self._work = self._log.begin(f"cloning {source.repository}")
        above = os.path.dirname(self.folder)
        # If this fails, no half clone may be left where a complete one is expected.
        with tempfile.TemporaryDirectory(prefix=".clone-", dir=above) as unfinished:
            self._git(
                "clone",
                "--progress",
                "--no-checkout",
                "--",
                source.secret_address,
                unfinished,
                cwd=self._beside,
            )
            self._check_out(unfinished, self._wanted())
            try:
                os.rename(unfinished, self.folder)  # in place of an empty folder, too
            except OSError:
                raise BuildError(
                    f"{self.what} cannot be cloned, because {self.folder} exists and is no clone; "
                    "move it elsewhere"
                ) from None
            os.mkdir(unfinished)  # for the end of this block to remove

    def update(self) -> None:
        if self._git("status", "--porcelain") or self._head() != self._note(_COMMIT_FILE):
            raise BuildError(
                f"{self.what} is not brought up to date, because {self.folder} has changes of yours; "
                "push them and remove the folder, or give the node a `path` to it instead of `git`"
            )
        self._git("fetch", "--progress", "--prune", "--tags", "--force", "origin")
        before = self._head()
        commit = self._git("rev-parse", f"{self._wanted()}^{{commit}}")[0]
        # Before the first file changes. After a kill, the next build finds the note and takes the update
        # back; without it, half an update would count as changes of the user.
        _write_note(self.folder, _UPDATE_FILE, commit)
        try:
            self._check_out(self.folder, commit)
        except BuildError:
            # A running dataflow may start nodes of this clone again.
            with suppress(BuildError):  # the note stays then, and the next build tries again
                self.take_back()
            raise
        os.unlink(f"{self.folder}/{_UPDATE_FILE}")
        if self._head() != before:
            self._log.write(f"{self._source.repository} is now at {self._head()[:12]}")

    def take_back(self) -> None:
        """Check out the commit before an update that was cut off.

        The clone had no changes when the update began. First comes the commit of the update: some of its
        files may be there, and only a commit that has them removes them.
        """
        with suppress(FileNotFoundError):
            os.unlink(f"{self.folder}/.git/index.lock")  # of a git that was killed
        after = self._note(_UPDATE_FILE) or self._head()
        self._git("checkout", "--quiet", "--force", "--detach", after, "--")
        if os.path.exists(f"{self.folder}/.gitmodules"):
            self._git("submodule", "--quiet", "deinit", "--force", "--all")  # git leaves their files
        self._check_out(self.folder, self._note(_COMMIT_FILE) or after)
        os.unlink(f"{self.folder}/{_UPDATE_FILE}")

    def _wanted(self) -> str:
        """Return the commit that the dataflow file names, in the words of git."""
        source = self._source
        if source.branch:
            return f"origin/{source.branch}"
        if source.tag:
            return f"refs/tags/{source.tag}"
        return source.rev or "origin/HEAD"

    def _check_out(self, folder: str, commit: str) -> None:
        self._git("checkout", "--quiet", "--progress", "--detach", commit, "--", cwd=folder)
        if os.path.exists(f"{folder}/.gitmodules"):
            self._git("submodule", "update", "--progress", "--init", "--recursive", cwd=folder)
        _write_note(folder, _COMMIT_FILE, self._git("rev-parse", "HEAD", cwd=folder)[0])

    def _head(self) -> str:
        return self._git("rev-parse", "HEAD")[0]

    def _note(self, name: str) -> str:
        try:
            with open(f"{self.folder}/{name}", encoding="utf-8") as note:
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
            lines = quoted([without_user(line) for line in error.lines])
            raise BuildError(f"{self.what} cannot be used: git {words[0]} failed{lines}") from None


def _write_note(folder: str, name: str, commit: str) -> None:
    with open(f"{folder}/{name}", "w", encoding="utf-8") as note:
        note.write(commit)


# --------------------------------------------------------------------------- downloads

TIMEOUT = 60.0  # seconds without any byte; a slow download that goes on has no limit
_CHUNK = 1 << 16
MAX_SIZE = 1 << 30  # bytes; an answer without end would fill the disk


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
    shown = without_user(source.url)
    what = f"{node.place or '<dataflow>'}: {shown}, which node `{node.id}` runs,"
    if _is_there(path, dataflow.working_dir):
        if source.sha256 is not None and _digest(path) == source.sha256:
            return
        if source.sha256 is None and (offline or not update):
            return
    if offline:
        raise BuildError(f"{what} is not downloaded yet, and --offline forbids to fetch it")
    work = log.begin(f"downloading {shown}")
    unfinished = f"{path}.{os.getpid()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    try:
        with open(open_file(unfinished, flags, below=dataflow.working_dir), "wb") as file:
            fetch(source.url, file, work=work)
        found = _digest(unfinished)
        if source.sha256 is not None and found != source.sha256:
            raise BuildError(f"{what} has a wrong checksum: its SHA-256 is {found}")
        os.chmod(unfinished, 0o755)  # before it has its name: another run may start it at once
        os.replace(unfinished, path)
    except OSError as error:
        raise BuildError(f"{what} cannot be downloaded: {system_fault(error)}") from None
    except FetchFailed as error:
        raise BuildError(f"{what} cannot be downloaded: {without_user(str(error))}") from None
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

    if without_user(url) != url:
        raise FetchFailed("its address has a user, and dora logs in nowhere")
    try:
        with urlopen(url, timeout=TIMEOUT) as response:
            size = 0
            expected = response.length  # now: reading counts it down
            if work is not None:
                work.expect(expected or 0)
            while chunk := response.read(_CHUNK):
                size += len(chunk)
                if size > max_size:
                    raise FetchFailed(f"it is larger than {max_size >> 20} MiB")
                file.write(chunk)
                if work is not None:
                    work.advance(len(chunk))
            if expected is not None and size != expected:  # `read` raises nothing for that
                raise FetchFailed(f"it broke off after {size:,} of {expected:,} bytes")
    except HTTPError as error:
        raise FetchFailed(f"the server says {error.code} {error.reason}") from None
    except URLError as error:
        raise FetchFailed(getattr(error.reason, "strerror", None) or str(error.reason)) from None
    except (OSError, HTTPException, ValueError) as error:
        raise FetchFailed(str(error)) from None


def _digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
