"""Run the ``build`` commands of a dataflow, one after the other, each without a shell.

A command sees the environment of its node and runs in the dataflow's working directory. ``pip``,
``pip3``, ``python`` and ``python3`` mean the interpreter that runs dora, so that what is installed
is what the nodes import. The first command that fails ends the build.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping

from dora.dataflow.model import Dataflow, LogLevel, Node
from dora.errors import BuildError
from dora.logs.entry import LogEntry, Stream

TAIL_LINES = 20
"""How many of the last lines of its output are repeated when a command fails."""

_SHELL_COMMANDS = frozenset({"cd", "source", ".", "export"})
_SHELL_WORDS = frozenset({"&&", "||", "|", ";", "&", ">", ">>", "<", "2>&1"})


def build_dataflow(dataflow: Dataflow, on_log: Callable[[LogEntry], None], *, uv: bool = False) -> int:
    """Run all build commands in the order of the nodes; return how many there were.

    ``on_log`` gets one entry per command (level ``info``) and one per line of its output (level
    ``stdout``). Raises `BuildError` at the first command that cannot be started or does not exit
    with status 0. When interrupted, the running command is ended first.
    """
    count = 0
    for node in dataflow.nodes:
        for command in node.build:
            _run(dataflow, node, command, on_log, uv)
            count += 1
    return count


def command_words(command: str, *, uv: bool = False, python: str = sys.executable) -> list[str]:
    """Split a build command and put the right interpreter into it; raises ``ValueError``.

    >>> command_words("pip install -e 'my node'", python="/venv/bin/python")
    ['/venv/bin/python', '-m', 'pip', 'install', '-e', 'my node']
    >>> command_words("pip install numpy", uv=True)
    ['uv', 'pip', 'install', 'numpy']
    """
    words = shlex.split(command)
    if not words:
        raise ValueError("the command is empty")
    match words[0]:
        case "pip" | "pip3":
            return ["uv", "pip", *words[1:]] if uv else [python, "-m", "pip", *words[1:]]
        case "python" | "python3":
            return ["uv", "run", "python", *words[1:]] if uv else [python, *words[1:]]
        case _:
            return words


def build_environment(
    dataflow: Dataflow, node: Node, environ: Mapping[str, str], *, uv: bool = False
) -> dict[str, str]:
    """Return the environment of a node's build commands."""
    # Programs of dora's own environment are found even if that environment is not activated.
    beside = os.path.dirname(sys.executable)
    path = environ.get("PATH", os.defpath)
    if beside not in path.split(os.pathsep):
        path = f"{path}{os.pathsep}{beside}"
    merged = {**environ, "PATH": path, "PYTHONUNBUFFERED": "1"}
    if uv and sys.prefix != sys.base_prefix:
        merged.setdefault("VIRTUAL_ENV", sys.prefix)
    return {**merged, **dataflow.env, **node.env}


def _run(
    dataflow: Dataflow, node: Node, command: str, on_log: Callable[[LogEntry], None], uv: bool
) -> None:
    def log(level: LogLevel, message: str, stream: Stream) -> None:
        on_log(LogEntry(time.time_ns(), level, node.id, message, stream=stream, target="build"))

    what = f"node `{node.id}`: the build command `{command}`"
    try:
        words = command_words(command, uv=uv)
    except ValueError as error:
        raise BuildError(f"{what} cannot be read: {str(error).lower()}") from None
    log("info", f"running `{command}`", "daemon")
    try:
        process = subprocess.Popen(
            words,
            cwd=dataflow.working_dir,
            env=build_environment(dataflow, node, os.environ, uv=uv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    except OSError as error:
        reason = _why_not_started(error, words, dataflow, uv)
        raise BuildError(f"{what} cannot be started: {reason}{_shell_hint(command)}") from None

    tail: deque[str] = deque(maxlen=TAIL_LINES)
    with process:
        try:
            assert process.stdout is not None
            for raw in process.stdout:
                line = raw.decode("utf-8", "replace").rstrip("\r\n")
                tail.append(line)
                log("stdout", line, "stdout")
            status = process.wait()
        except BaseException:
            _end(process)
            raise
    if status != 0:
        raise BuildError(_failure(what, status, command, tail))


def _why_not_started(error: OSError, words: list[str], dataflow: Dataflow, uv: bool) -> str:
    if not os.path.isdir(dataflow.working_dir):
        return f"its working directory {dataflow.working_dir} does not exist"
    if isinstance(error, FileNotFoundError):
        hint = "; install uv, or build without --uv" if uv and words[0] == "uv" else ""
        return f"there is no program `{words[0]}` on PATH{hint}"
    if isinstance(error, PermissionError):
        return f"`{words[0]}` may not be executed (make it executable, or name its interpreter first)"
    return error.strerror or str(error)


def _failure(what: str, status: int, command: str, tail: deque[str]) -> str:
    from dora.supervise.verdict import describe_exit

    ending = describe_exit(status, None) if status > 0 else describe_exit(None, -status)
    text = f"{what} {ending}{_shell_hint(command)}"
    if tail:
        text += "\n" + "\n".join(f"  | {line}" for line in tail)
    return text


def _shell_hint(command: str) -> str:
    words = command.split()
    if words[0] not in _SHELL_COMMANDS and not _SHELL_WORDS.intersection(words):
        return ""
    return "\n  help: build commands run without a shell: write one command per line, or `sh -c '...'`"


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=2)
    except subprocess.TimeoutExpired:
        process.kill()
