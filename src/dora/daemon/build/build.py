"""Build a dataflow: clones, environments, and the ``build`` commands of its nodes.

Commands run without a shell, in the node's directory and environment. ``pip`` and ``python`` mean the
interpreter that runs the node, so that what is installed is what it imports. An installation that is
complete already is skipped without asking pip, as every `dora run` builds. The first failure ends all.
"""

from __future__ import annotations

import os
import shlex
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import cached_property

import msgspec

from dora.daemon.build.commands import Log, Processes, Stopped
from dora.daemon.build.environments import EnvironmentMaker, require_uv, with_inline_environments
from dora.daemon.build.own_wheel import NAME, write_wheel
from dora.daemon.build.pip import Fault, faults
from dora.daemon.logs.entry import LogEntry
from dora.daemon.processes.command import why_refused
from dora.daemon.processes.interpreter import (
    FOLDER,
    Interpreter,
    environment_folder,
    find_uv,
    interpreter_of,
    wheel_path,
)
from dora.daemon.processes.programs import missing_programs
from dora.dataflow.model import Dataflow, NodeSpec
from dora.errors import BuildError, DataflowError, Problem

# Do for a dataflow what has to be done before it can run, and no more.


def build_programs(dataflow: Dataflow, on_log: Callable[[LogEntry], None], options: BuildOptions) -> Built:
    """Do what nodes need before they can run; the result has the dataflow to run. Raises `BuildError`."""
    from dora.daemon.build.environments import with_inline_environments

    dataflow = with_inline_environments(dataflow)
    if options.uv or is_to_be_built(dataflow):
        return build_dataflow(dataflow, on_log, options)
    return Built(dataflow)


def is_to_be_built(dataflow: Dataflow) -> bool:
    """Tell whether a build may bring programs that are not there yet."""
    return any(node.build or node.git or node.download or node.python for node in dataflow.nodes)


def missing(dataflow: Dataflow, *, uv: bool = False) -> list[Problem]:
    """Return what is not there and will not be built; nodes that may run on other machines are left out."""
    from dora.dataflow import missing_files

    problems = missing_files(dataflow)
    if not is_to_be_built(dataflow):
        away = {program.node for program in dataflow.programs if program.elsewhere}
        nodes = tuple(node for node in dataflow.nodes if node.id not in away)
        problems += missing_programs(msgspec.structs.replace(dataflow, nodes=nodes), uv=uv)
    return sorted(problems, key=lambda problem: (problem.file, problem.line, problem.column))


def check_programs(dataflow: Dataflow, *, uv: bool) -> None:
    """Raise `DataflowError` if a command, or what a build should have made, is not there after it."""
    if problems := missing_programs(dataflow, uv=uv):
        raise DataflowError(problems=tuple(problems))


# How a dataflow is built, and what a build did.


class BuildOptions(msgspec.Struct, frozen=True):
    """How to build. ``update``: bring clones that follow a branch up to date."""

    uv: bool = False
    parallel: bool = False
    offline: bool = False
    update: bool = False


class Built(msgspec.Struct, frozen=True):
    """What a build did. ``dataflow`` is what to run: it knows what the scripts ask for as well."""

    dataflow: Dataflow
    commands: int = 0
    skipped: int = 0  # of them, those with nothing to do
    seconds: float = 0.0
    build_id: str | None = None  # of the session file; None: not recorded


def build_dataflow(
    dataflow: Dataflow, on_log: Callable[[LogEntry], None], options: BuildOptions | None = None
) -> Built:
    """Do everything that nodes need before they can run.

    ``on_log`` gets one entry per command (level ``info``) and one per line of its output (level
    ``stdout``); in a parallel build it is called from several threads. Raises `BuildError` at the first
    thing that fails. When interrupted, the running commands are ended first.
    """
    with ExitStack() as stack:
        return _Builder(dataflow, on_log, options or BuildOptions(), stack).build()


class _Builder:
    def __init__(
        self,
        dataflow: Dataflow,
        on_log: Callable[[LogEntry], None],
        options: BuildOptions,
        stack: ExitStack,
    ) -> None:
        self._dataflow = dataflow
        self._on_log = on_log
        self._options = options
        self._stack = stack
        self._processes = Processes(options.parallel)
        self._guard = threading.Lock()
        # Installers do not stand one another in the same environment.
        self._installing: dict[str | None, threading.Lock] = {}
        self._commands = 0
        self._skipped = 0
        # Of the environment of dora itself: what it lacked before it was touched, None if it was not;
        # and what nodes require of it.
        self._faults_before: list[Fault] | None = None
        self._asked: list[tuple[Log, str]] = []

    def build(self) -> Built:
        begun = time.monotonic()
        if any(node.git or node.download for node in self._dataflow.nodes):
            self._fetch()
            self._dataflow = with_inline_environments(self._dataflow)
        if self._options.uv or any(node.python for node in self._dataflow.nodes):
            self._make_folder()
            write_wheel(wheel_path(self._dataflow.working_dir))
        nodes = [
            node
            for node in self._dataflow.nodes
            if node.build or environment_folder(self._dataflow, node, uv=self._options.uv)
        ]
        if self._options.parallel:
            self._all_at_once(nodes)
        else:
            for node in nodes:
                self._build_node(node)
        if self._faults_before is not None:
            self._look_for_conflicts(self._faults_before)
        return Built(self._dataflow, self._commands, self._skipped, time.monotonic() - begun)

    def _all_at_once(self, nodes: list[NodeSpec]) -> None:
        from concurrent.futures import ThreadPoolExecutor, as_completed

        with ThreadPoolExecutor(max(os.cpu_count() or 1, 2)) as pool:
            jobs = [pool.submit(self._build_node, node) for node in nodes]
            try:
                for job in as_completed(jobs):
                    try:
                        job.result()
                    except Stopped:
                        pass
            except BaseException:
                self._processes.stop()
                for job in jobs:
                    job.cancel()
                raise

    def _make_folder(self) -> None:
        """Make the folder for what is made; a repository around it ignores it."""
        folder = f"{self._dataflow.working_dir}/{FOLDER}"
        os.makedirs(folder, exist_ok=True)
        ignore = f"{folder}/.gitignore"
        if not os.path.exists(ignore):
            with open(ignore, "w", encoding="utf-8") as file:
                file.write("# Made by dora. Locks are worth keeping with the dataflow, the rest is not.\n")
                file.write("*\n!.gitignore\n!python-locks/\n!python-locks/*.txt\n")

    def _fetch(self) -> None:
        """Fetch the repositories and files of nodes; several nodes may share one."""
        from dora.daemon.build.sources import ensure_clone, ensure_download

        self._make_folder()
        update, offline = self._options.update, self._options.offline
        done: set[object] = set()
        for node in self._dataflow.nodes:
            log = Log(self._on_log, node.id)
            if node.git is not None and node.git.folder not in done:
                done.add(node.git.folder)
                ensure_clone(self._dataflow, node, self._processes, log, update=update, offline=offline)
            elif node.download is not None and node.download not in done:
                done.add(node.download)
                ensure_download(self._dataflow, node, log, update=update, offline=offline)

    # ----------------------------------------------------------------------- one node

    def _build_node(self, node: NodeSpec) -> None:
        log = Log(self._on_log, node.id)
        interpreter = interpreter_of(self._dataflow, node, uv=self._options.uv)
        if environment_folder(self._dataflow, node, uv=self._options.uv):
            EnvironmentMaker(
                self._dataflow,
                node,
                self._processes,
                log,
                {**os.environ, **self._for_installers},
                offline=self._options.offline,
            ).ensure()
        for command in node.build:
            with self._guard:
                self._commands += 1
            if not self._run_command(node, command, interpreter, log):
                with self._guard:
                    self._skipped += 1

    def _run_command(self, node: NodeSpec, command: str, interpreter: Interpreter, log: Log) -> bool:
        """Run one build command; return False if there was nothing to do."""
        from dora.daemon.build.pip import pip_command

        what = f"node `{node.id}`: the build command `{command}`"
        try:
            words = shlex.split(command)
        except ValueError as error:
            raise BuildError(f"{what} cannot be read: {str(error).lower()}") from None
        if not words:
            return False
        pip = pip_command(words)
        own = interpreter.programs
        if pip is not None:
            written = list(pip.words)
            if pip.installs:
                left = self._left_to_install(written, node, what, own, log)
                if left is None:
                    log.say(f"`{command}`: nothing to do")
                    return False
                written = left
            words = self._installer(pip.verb, written, pip.uv, interpreter, what)
        elif words[0] in ("python", "python3"):
            words = [*interpreter.python, *words[1:]]
        log.say(f"running `{command}`")
        environment = build_environment(self._dataflow, node, os.environ, interpreter)
        environment |= self._for_installers
        if self._options.offline:
            environment |= {"PIP_NO_INDEX": "1", "UV_OFFLINE": "1"}
        if own is None and self._faults_before is None:
            self._faults_before = faults([NAME])
        if pip is None:
            self._execute(words, what, command, node, environment, log)
        else:
            with self._lock_of(own):
                self._execute(words, what, command, node, environment, log)
        if own is None:
            self._stay_in_place(what)
        return True

    def _execute(
        self, words: list[str], what: str, command: str, node: NodeSpec, env: Mapping[str, str], log: Log
    ) -> None:
        directory = self._dataflow.directory_of(node)
        self._processes.run(words, what=what, cwd=directory, env=env, log=log, written=command)

    # ----------------------------------------------------------------------- installing

    def _left_to_install(
        self, words: list[str], node: NodeSpec, what: str, own: str | None, log: Log
    ) -> list[str] | None:
        """Return the words for the installer, None if there is nothing to install."""
        from dora.daemon.build.pip import plan

        installation = plan(words, self._dataflow.directory_of(node))
        if installation.refused:
            raise BuildError(f"{what} cannot be used: {why_refused(installation.refused[0])}")
        for name in installation.provided:
            log.say(f"`{name}` is not installed: this dora takes its place")
        for name in installation.builtin:
            log.say(f"`{name}` comes with dora; installing what it needs")
        if not installation.asks:
            return None
        if own is None and not _chooses_environment(words):
            with self._guard:
                self._asked += ((log, requirement) for requirement in installation.requirements)
            if installation.certain and not faults(installation.requirements):
                return None
        return installation.words

    def _installer(
        self, verb: str, words: list[str], written_for_uv: bool, interpreter: Interpreter, what: str
    ) -> list[str]:
        python = interpreter.python[-1] if interpreter.programs else sys.executable
        if not interpreter.programs and not written_for_uv and self._has_pip:
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
    def _installer_variables(self) -> dict[str, str]:
        from dora.daemon.build.shadowing import installer_environment

        folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="dora-build-"))
        return installer_environment(folder, os.environ)

    @property
    def _for_installers(self) -> dict[str, str]:
        with self._guard:
            return self._installer_variables

    def _lock_of(self, environment: str | None) -> threading.Lock:
        with self._guard:
            return self._installing.setdefault(environment, threading.Lock())

    def _stay_in_place(self, what: str) -> None:
        """Raise if a command has put dora-rs in our place."""
        from dora.daemon.build.shadowing import has_upstream, mend

        if has_upstream(sysconfig.get_path("purelib")):
            raise BuildError(
                f"{what} has installed dora-rs over this dora; mend it with\n  {mend()}\nand take "
                "`dora-rs` out of what the command installs"
            )

    def _look_for_conflicts(self, before: list[Fault]) -> None:
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
        for log, requirement in self._asked:
            for fault in faults([requirement]):
                if fault.found is None:
                    continue  # an installer that did not fail has a reason
                log.say(
                    f"{fault}, as another node needs it: they share one environment. Give this node one of "
                    "its own (`python:` in the dataflow file, or --uv)",
                    "warn",
                )


def build_environment(
    dataflow: Dataflow, node: NodeSpec, environ: Mapping[str, str], interpreter: Interpreter
) -> dict[str, str]:
    """Return the environment of a node's build commands."""
    path = environ.get("PATH", os.defpath).split(os.pathsep)
    if interpreter.programs is not None:
        path.insert(0, interpreter.programs)
    # Programs of dora's own environment are found even if that environment is not activated.
    beside = os.path.dirname(sys.executable)
    if beside not in path:
        path.append(beside)
    merged = {**environ, "PATH": os.pathsep.join(path), "PYTHONUNBUFFERED": "1"}
    return {**merged, **interpreter.variables, **dataflow.env, **node.env}


def _chooses_environment(words: list[str]) -> bool:
    own = ("-p", "--python", "--system", "--target", "--prefix", "-t")
    return any(word.partition("=")[0] in own for word in words)
