"""Builds of nodes: clones, downloads, environments, and the ``build`` commands.

Commands run without a shell, in the node's directory and environment. ``pip`` and ``python`` mean the
interpreter that runs the node, so that what is installed is what it imports. An installation that is
complete already is skipped without starting pip, because every `dora run` builds. The first failure ends
the build.
"""

from __future__ import annotations

import os
import shlex
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from functools import cached_property, partial
from typing import Final

from packaging.version import Version

from dora._shared_folders import open_file
from dora.daemon.build.environments import EnvironmentMaker, require_uv
from dora.daemon.build.inline_script import with_inline_environments
from dora.daemon.build.own_wheel import write_wheel
from dora.daemon.build.pip import Fault, faults, pip_command, plan
from dora.daemon.build.shadowing import NAME, has_upstream, installer_environment, mend
from dora.daemon.build.subprocesses import BuildLog, Processes
from dora.daemon.logs.entry import LogEntry
from dora.daemon.options import BuildOptions
from dora.daemon.processes.interpreter import FOLDER, Interpreter, find_uv, uv_environment, wheel_path
from dora.daemon.processes.launch_spec import LaunchSpec, launch_spec
from dora.daemon.processes.programs import why_refused
from dora.daemon.work import BuildProgress, installer_progress
from dora.dataflow.model import Dataflow
from dora.errors import BuildError, system_fault

_PRINTS_PROGRESS: Final = Version("24.1")  # of pip: the first that knows `--progress-bar raw`


class NodeBuilds:
    """Builds the nodes of one dataflow; ``with`` removes the temporary files at the end.

    After `run`, ``dataflow`` is the one to run, ``commands`` counts the build commands, and ``skipped``
    those with nothing to do.
    """

    def __init__(
        self, dataflow: Dataflow, on_log: Callable[[LogEntry], None], options: BuildOptions
    ) -> None:
        self.dataflow = dataflow
        self.progress = BuildProgress()
        self.commands = 0
        self.skipped = 0
        self._on_log = on_log
        self._options = options
        self._stack = ExitStack()
        self._processes = Processes(options.parallel)
        self._stack.callback(self._processes.close)
        # Threads of a parallel build share the counters, the lists below, and the folder for installers,
        # which is made once.
        self._guard = threading.Lock()
        # Two installers must not change the same environment at once.
        self._installing: dict[str | None, threading.Lock] = {}
        # The environment of dora itself: its faults before a command changed it, None if none did; and the
        # requirements of nodes that share it.
        self._faults_before: list[Fault] | None = None
        self._shared_requirements: list[tuple[BuildLog, str]] = []

    def __enter__(self) -> NodeBuilds:
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.ended.set()
        self._stack.close()

    def run(self) -> None:
        """Build all nodes; raises `BuildError` at the first thing that fails."""
        try:
            self._run()
        except OSError as error:  # a folder that cannot be written, a full disk
            raise BuildError(f"the build fails: {system_fault(error)}") from error

    def _run(self) -> None:
        uv = self._options.uv
        builds = sum(uv or bool(node.build) or bool(node.python) for node in self.dataflow.nodes)
        self.progress.steps = builds  # corrected when all files are there
        if any(node.git or node.downloads for node in self.dataflow.nodes):
            self._fetch()
            self.dataflow = with_inline_environments(self.dataflow)  # scripts of clones are there only now
        if self._options.uv or any(node.python for node in self.dataflow.nodes):
            self._make_folder()
            write_wheel(wheel_path(self.dataflow.working_dir), below=self.dataflow.working_dir)
        specs = [launch_spec(self.dataflow, node, uv=self._options.uv) for node in self.dataflow.nodes]
        specs = [spec for spec in specs if spec.node.build or spec.interpreter.folder]
        self.progress.steps = self.progress.done + len(specs)
        if self._options.parallel:
            self._build_in_parallel(specs)
        else:
            for spec in specs:
                self._build_node(spec)
        if self._faults_before is not None:
            self._check_conflicts(self._faults_before)

    def _build_in_parallel(self, specs: list[LaunchSpec]) -> None:
        from concurrent.futures import ThreadPoolExecutor, as_completed

        with ThreadPoolExecutor(max(os.cpu_count() or 1, 2)) as pool:
            jobs = [pool.submit(self._build_node, spec) for spec in specs]
            try:
                for job in as_completed(jobs):
                    job.result()
            except BaseException:
                # First of all: the pool waits for its threads, and they for their commands.
                self._processes.stop()
                for job in jobs:
                    job.cancel()
                raise

    def _make_folder(self) -> None:
        """Make the folder of clones and environments, which a repository around it ignores."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        try:
            ignore = open_file(f"{FOLDER}/.gitignore", flags, below=self.dataflow.working_dir)
        except FileExistsError:
            return  # an earlier build has made it, and the user may have changed it
        with open(ignore, "w", encoding="utf-8") as file:
            file.write("# Made by dora. Locks are worth keeping with the dataflow, the rest is not.\n")
            file.write("*\n!.gitignore\n!python-locks/\n!python-locks/*.txt\n")

    def _fetch(self) -> None:
        """Fetch the repositories and files of nodes; several nodes may share one."""
        from dora.daemon.build.node_sources import ensure_clone, ensure_download

        self._make_folder()
        update, offline = self._options.update, self._options.offline
        steps: dict[object, Callable[[], None]] = {}
        for node in self.dataflow.nodes:
            log = BuildLog(self._on_log, node.id, self.progress)
            if node.git is not None:
                clone = partial(ensure_clone, self.dataflow, node, self._processes, log)
                steps.setdefault(node.git.folder, partial(clone, update=update, offline=offline))
            for path, source in node.downloads:
                download = partial(ensure_download, self.dataflow, node, path, source, log)
                steps.setdefault(source, partial(download, update=update, offline=offline))
        self.progress.steps += len(steps)
        for step in steps.values():
            with self.progress.step():
                step()

    # ----------------------------------------------------------------------- one node

    def _build_node(self, spec: LaunchSpec) -> None:
        with self.progress.step():
            self._make_node(spec, BuildLog(self._on_log, spec.node.id, self.progress))

    def _make_node(self, spec: LaunchSpec, log: BuildLog) -> None:
        if spec.interpreter.folder:
            EnvironmentMaker(
                spec,
                self.dataflow.working_dir,
                self._processes,
                log,
                {**os.environ, **self._for_installers},
                offline=self._options.offline,
            ).ensure()
        for command in spec.node.build:
            with self._guard:
                self.commands += 1
            if not self._run_command(spec, command, log):
                with self._guard:
                    self.skipped += 1

    def _run_command(self, spec: LaunchSpec, command: str, log: BuildLog) -> bool:
        """Run one build command; return False if there was nothing to do."""
        what = f"node `{spec.node.id}`: the build command `{command}`"
        try:
            words = shlex.split(command)
        except ValueError as error:
            raise BuildError(f"{what} cannot be read: {str(error).lower()}") from None
        if not words:
            return False
        pip = pip_command(words)
        environment_folder = spec.interpreter.folder
        if pip is not None:
            written = list(pip.words)
            if pip.installs:
                left = self._left_to_install(written, spec, what, log)
                if left is None:
                    log.write(f"`{command}`: nothing to do")
                    return False
                written = left
            words = self._installer(pip.verb, written, pip.uv, spec.interpreter, what)
        elif words[0] in ("python", "python3"):
            words = [*spec.interpreter.python, *words[1:]]
        work = log.begin(f"running `{command}`")
        environment = spec.build_environment() | self._for_installers
        if pip is not None:
            environment = uv_environment(environment)
            if self._pip_prints_progress:
                environment = {"PIP_PROGRESS_BAR": "raw"} | environment
        if self._options.offline:
            environment |= {"PIP_NO_INDEX": "1", "UV_OFFLINE": "1"}
        if environment_folder is None and self._faults_before is None:
            self._faults_before = faults([NAME])
        with nullcontext() if pip is None else self._lock_of(environment_folder):
            self._processes.run(
                words,
                what=what,
                cwd=spec.directory,
                env=environment,
                log=log,
                written=command,
                read=None if pip is None else installer_progress(work),
            )
        if environment_folder is None:
            self._check_shadowing(what)
        return True

    # ----------------------------------------------------------------------- installing

    def _left_to_install(
        self, words: list[str], spec: LaunchSpec, what: str, log: BuildLog
    ) -> list[str] | None:
        """Return the words for the installer, None if there is nothing to install."""
        installation = plan(words, spec.directory)
        if installation.refused:
            raise BuildError(f"{what} cannot be used: {why_refused(installation.refused[0])}")
        for name in installation.provided:
            log.write(f"`{name}` is not installed: this dora takes its place")
        for name in installation.builtin:
            log.write(f"`{name}` comes with dora; installing what it needs")
        if not installation.asks:
            return None
        if spec.interpreter.folder is None and not _chooses_environment(words):
            with self._guard:
                self._shared_requirements += (
                    (log, requirement) for requirement in installation.requirements
                )
            if installation.certain and not faults(installation.requirements):
                return None
        return installation.words

    def _installer(
        self, verb: str, words: list[str], written_for_uv: bool, interpreter: Interpreter, what: str
    ) -> list[str]:
        python = interpreter.python[-1] if interpreter.folder else sys.executable
        if not interpreter.folder and not written_for_uv and self._has_pip:
            return [python, "-m", "pip", verb, *words]
        uv = find_uv()
        if uv is None and not written_for_uv:
            raise BuildError(
                f"{what} cannot be started: there is neither pip in the environment of {python} nor uv "
                f"on PATH; `{python} -m ensurepip` brings pip"
            )
        uv = require_uv(what)
        choice = [] if _chooses_environment(words) or not verb else ["--python", python]
        return [uv, "pip", verb, *choice, *words]

    @cached_property
    def _has_pip(self) -> bool:
        from importlib.util import find_spec

        return find_spec("pip") is not None

    @cached_property
    def _pip_prints_progress(self) -> bool:
        from importlib.metadata import version

        return self._has_pip and Version(version("pip")) >= _PRINTS_PROGRESS

    @cached_property
    def _installer_variables(self) -> dict[str, str]:
        folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="dora-build-"))
        return installer_environment(folder, os.environ)

    @property
    def _for_installers(self) -> dict[str, str]:
        with self._guard:
            return self._installer_variables

    def _lock_of(self, environment: str | None) -> threading.Lock:
        with self._guard:
            return self._installing.setdefault(environment, threading.Lock())

    def _check_shadowing(self, what: str) -> None:
        """Raise `BuildError` if a command has installed dora-rs over this dora."""
        if has_upstream(sysconfig.get_path("purelib")):
            raise BuildError(
                f"{what} has installed dora-rs over this dora; mend it with\n  {mend()}\nand take "
                "`dora-rs` out of what the command installs"
            )

    def _check_conflicts(self, before: list[Fault]) -> None:
        """Compare what is installed now with what dora and the nodes require."""
        from importlib import invalidate_caches

        invalidate_caches()
        ours = [fault for fault in faults([NAME]) if fault not in before]
        if ours:
            raise BuildError(
                "the build commands have installed versions that this dora cannot work with: "
                + "; ".join(map(str, ours))
                + ". Give the node an environment of its own (`python:` in the dataflow file, or --uv)"
            )
        for log, requirement in self._shared_requirements:
            for fault in faults([requirement]):
                if fault.found is None:
                    continue  # an installer that did not fail has a reason
                log.write(
                    f"{fault}, as another node needs it: they share one environment. Give this node one of "
                    "its own (`python:` in the dataflow file, or --uv)",
                    "warn",
                )


def _chooses_environment(words: list[str]) -> bool:
    own = ("-p", "--python", "--system", "--target", "--prefix", "-t")
    return any(word.partition("=")[0] in own for word in words)
