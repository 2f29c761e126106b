"""Commands of dora, run in the process of the test, which saves a process for each."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from unittest import mock

from dora.cli.main import run_command_line


def run_command(*arguments: str, folder: Path, env: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Run a command in a folder; return its exit status and all that it printed.

    ``env`` replaces the environment. For commands that read, ask or change something and return: those that
    run until a signal need a process.
    """
    output = io.StringIO()
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.chdir(folder))
        if env is not None:
            stack.enter_context(mock.patch.dict(os.environ, env, clear=True))
        stack.enter_context(mock.patch.object(sys, "stdin", io.StringIO()))
        stack.enter_context(contextlib.redirect_stdout(output))
        stack.enter_context(contextlib.redirect_stderr(output))
        status = run_command_line(arguments)
    return status, output.getvalue()
