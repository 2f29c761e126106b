"""Commands of dora, run in the process of the test, which saves a process for each."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from unittest import mock

from dora.cli.main import run_command_line

# Commands that return. The pages of `docs/` and the tests of `dora cluster` over ssh run each of them as a
# process, too.
WITHOUT_A_PROCESS = {
    *("cluster", "down", "list", "logs", "node", "param", "restart", "start", "status", "stop", "up"),
}


def needs_a_process(*arguments: str) -> bool:
    """Return whether `run_command` cannot run a command here.

    It may not return, this is a thread, or it would configure the logging of the tests.
    """
    command, *options = arguments
    may_not_return = "--attach" in options or (command == "logs" and {"--follow", "-f"} & {*options})
    is_main_thread = threading.current_thread() is threading.main_thread()
    return (
        command not in WITHOUT_A_PROCESS
        or bool(may_not_return)
        or not is_main_thread
        or "RUST_LOG" in os.environ
    )


def run_command(*arguments: str, folder: Path, env: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Run a command in a folder; return its exit status and all that it printed.

    ``env`` replaces the environment.
    """
    written = io.BytesIO()
    output = io.TextIOWrapper(written, encoding="utf-8", errors="backslashreplace", write_through=True)
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.chdir(folder))
        # A command may set variables, for what it calls.
        stack.enter_context(mock.patch.dict(os.environ, env or {}, clear=env is not None))
        stack.enter_context(mock.patch.object(sys, "stdin", io.StringIO()))
        stack.enter_context(contextlib.redirect_stdout(output))
        stack.enter_context(contextlib.redirect_stderr(output))
        status = run_command_line(arguments)
    return status, written.getvalue().decode()
