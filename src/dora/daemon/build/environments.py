"""Python environments of nodes that do not run in dora's own, made with uv.

An environment is a folder ``.dora/python-envs/<name>`` beside the dataflow file. Its packages come from a
*lock*, the solver's complete list with versions, which is made once and kept in
``.dora/python-locks/<name>.txt``. Until the dataflow requires something else, every machine and every
rebuild gets the same packages. If another version of dora has other requirements, the lock is solved anew
and keeps the versions that still fit. dora itself is installed last (`dora.daemon.build.own_wheel`).
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from dora._shared_folders import check_folder_if_there, make_folder
from dora.daemon.build import own_wheel
from dora.daemon.build.file_lock import locked
from dora.daemon.build.subprocesses import BuildLog, CommandFailed, Processes, quoted
from dora.daemon.processes.interpreter import find_uv, uv_environment, wheel_path
from dora.daemon.processes.launch_spec import LaunchSpec
from dora.daemon.work import Work, installer_progress
from dora.errors import BuildError

_STAMP = "dora-environment"  # file written last: hashes of the wheel and the lock


def require_uv(what: str) -> str:
    """Return the path of uv; raises `BuildError` if there is none, as ``what`` needs it."""
    uv = find_uv()
    if uv is None:
        raise BuildError(
            f"{what} needs uv, which is not installed; `pip install uv` brings it, or see "
            "https://docs.astral.sh/uv"
        )
    return uv


class EnvironmentMaker:
    """Makes the environment of one node."""

    def __init__(
        self,
        spec: LaunchSpec,
        working_dir: str,
        processes: Processes,
        log: BuildLog,
        environ: Mapping[str, str],
        *,
        offline: bool = False,
    ) -> None:
        """``working_dir``: the dataflow's, below which environments are made."""
        node, folder = spec.node, spec.interpreter.folder
        assert folder is not None
        self.folder = folder
        self._what = f"{node.place or '<dataflow>'}: the Python environment of node `{node.id}`"
        self._shown = os.path.relpath(folder, working_dir)
        self._node = node
        self._directory = spec.directory
        self._python = f"{folder}/bin/python"
        self._version = (node.python.version if node.python is not None else None) or sys.executable
        self._before = f"{os.path.dirname(folder)}/.{os.path.basename(folder)}.before"
        self._processes = processes
        self._log = log
        self._work = Work()
        self._working_dir = working_dir
        self._wheel = wheel_path(working_dir)
        self._lock = (
            f"{os.path.dirname(os.path.dirname(folder))}/python-locks/{os.path.basename(folder)}.txt"
        )
        # Neither a project around the dataflow nor an activated environment may change the result.
        self._env = uv_environment(environ) | {"UV_NO_PROGRESS": "1"}
        self._env.pop("VIRTUAL_ENV", None)
        if offline:
            self._env["UV_OFFLINE"] = "1"

    def ensure(self) -> None:
        """Make the environment unless it exists and is up to date; raises `BuildError`.

        The wheel of dora must exist (`dora.daemon.processes.interpreter.wheel_path`).
        """
        above, name = os.path.split(self.folder)
        make_folder(above, below=self._working_dir)
        check_folder_if_there(self.folder, below=self._working_dir)
        # Two builds of the dataflow share the environment. Without the lock, one would put it aside while
        # the other one installs into it.
        with locked(f"{above}/.{name}.lock"):
            if os.path.lexists(self._before):
                self._put_back()  # the last attempt was killed
            if self._stamp() == self._wanted_stamp():
                return  # also if the build that held the lock has made it
            self._uv = require_uv(self._what)
            self._work = self._log.begin(f"making its Python environment {self._shown}")
            if not os.path.lexists(self.folder):
                self._make()
                return
            self._check_is_environment()
            if self._node.python is not None:
                self._rehearse(self._node.python.requirements)
            with self._set_aside():
                self._make()

    def _make(self) -> None:
        asked = self._node.python
        self._run("venv", "--no-project", "--python", self._version, self.folder)
        if asked is not None:
            self._solve(asked.requirements, self._python)
            if os.path.getsize(self._lock):
                self._run("pip", "install", "--python", self._python, "--no-deps", "-r", self._lock)
            self._run("pip", "install", "--python", self._python, "--no-deps", self._wheel)
        else:
            self._run("pip", "install", "--python", self._python, self._wheel)
        with open(f"{self.folder}/{_STAMP}", "w", encoding="utf-8") as stamp:
            stamp.write(self._wanted_stamp())

    def _rehearse(self, requirements: tuple[str, ...]) -> None:
        """Look for the interpreter and the packages while the old environment is still in its place.

        A dataflow may run in it. Without a network, or with packages that do not exist, it loses nothing.
        """
        with tempfile.TemporaryDirectory(prefix=".rehearsal-", dir=os.path.dirname(self.folder)) as folder:
            self._run("venv", "--no-project", "--python", self._version, f"{folder}/env")
            self._solve(requirements, f"{folder}/env/bin/python")

    @contextmanager
    def _set_aside(self) -> Iterator[None]:
        """Keep the old environment in this block; it comes back if the block fails.

        The new one has to be made in its place: its scripts name the path of their interpreter.
        """
        os.rename(self.folder, self._before)
        try:
            yield
        except BaseException:
            self._put_back()
            raise
        shutil.rmtree(self._before, ignore_errors=True)  # the next build removes what stays

    def _put_back(self) -> None:
        """End an attempt: with its environment if it is complete, or else with the one before."""
        if self._stamp():
            shutil.rmtree(self._before, ignore_errors=True)
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        os.rename(self._before, self.folder)

    def _check_is_environment(self) -> None:
        """Raise `BuildError` if the folder is something else than an environment."""
        is_environment = any(os.path.isfile(f"{self.folder}/{name}") for name in ("pyvenv.cfg", _STAMP))
        if os.path.islink(self.folder) or not (is_environment or not os.listdir(self.folder)):
            raise BuildError(
                f"{self._what} cannot be made, because {self.folder} exists and is no environment; "
                "move it elsewhere"
            )

    def _solve(self, requirements: tuple[str, ...], python: str) -> None:
        """Write the lock for an interpreter, unless there is one that fits what this dora requires."""
        ours = own_wheel.requirements()
        lock = _bytes_of(self._lock).decode("utf-8", "replace")
        if os.path.isfile(self._lock) and not lacking(lock, ours):
            return
        make_folder(os.path.dirname(self._lock), below=self._working_dir)
        unfinished = f"{self._lock}.{os.getpid()}"
        if lock:
            shutil.copyfile(self._lock, unfinished)  # uv keeps to the versions that are there
        asked = "\n".join((*requirements, *ours))
        words = ["pip", "compile", "--quiet", "--no-header", "--universal", "--python", python]
        try:
            self._run(*words, "--output-file", unfinished, "-", stdin=asked)
            os.replace(unfinished, self._lock)  # at the end: a build that is killed changes no lock
        finally:
            if os.path.exists(unfinished):
                os.unlink(unfinished)

    def _run(self, *words: str, stdin: str | None = None) -> None:
        try:
            self._processes.run(
                [self._uv, *words],
                what="uv",
                cwd=self._directory,
                env=self._env,
                log=None,
                stdin=stdin,
                read=installer_progress(self._work),
            )
        except CommandFailed as error:
            asked = self._node.python
            wants = [f"Python {asked.version}"] if asked is not None and asked.version else []
            wants += [f"`{item}`" for item in asked.requirements] if asked is not None else []
            named = f" with {', '.join(wants)}" if wants else ""
            step = "no such Python" if words[0] == "venv" else "its packages cannot be had"
            raise BuildError(f"{self._what}{named} cannot be made: {step}{quoted(error.lines)}") from None

    def _stamp(self) -> str:
        try:
            with open(f"{self.folder}/{_STAMP}", encoding="utf-8") as stamp:
                return stamp.read()
        except OSError:
            return ""  # there is no environment, or none that is complete

    def _wanted_stamp(self) -> str:
        from hashlib import sha256

        return "".join(f"{sha256(_bytes_of(path)).hexdigest()}\n" for path in (self._wheel, self._lock))


def lacking(lock: str, requirements: Iterable[str]) -> list[str]:
    """Return the requirements that a lock has no fitting version for.

    >>> lacking("numpy==2.1.0\\n    # via dora\\n", ["numpy>=1.24", "psutil>=5.9"])
    ['psutil>=5.9']
    """
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import canonicalize_name

    locked: dict[str, list[str]] = {}
    for line in lock.splitlines():
        try:
            found = Requirement(line.partition(" #")[0])
        except InvalidRequirement:  # a comment, an option
            continue
        versions = locked.setdefault(canonicalize_name(found.name), [])
        versions += (item.version for item in found.specifier)

    def is_met(text: str) -> bool:
        wanted = Requirement(text)
        versions = locked.get(canonicalize_name(wanted.name), ())
        return any(wanted.specifier.contains(version, True) for version in versions)

    return [text for text in requirements if not is_met(text)]


def _bytes_of(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b""
