"""The Python program of a command line, if it has the options that a template has itself."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Final

import msgspec

INTERPRETER_OPTION: Final = "-u"


class PythonProgram(msgspec.Struct, frozen=True):
    """The program that a forked process runs."""

    module: str  # as with ``python -m``, or ""
    script: str  # the file, as on the command line
    arguments: tuple[str, ...]  # ``sys.argv``
    original: tuple[str, ...]  # ``sys.orig_argv``
    interpreter: str
    name: str  # of the process, as `ps` shows it; "": the template's


def program_of(command: Sequence[str]) -> PythonProgram | None:
    """Return what a command line runs, None if it is not Python, or has other options than the template.

    That is ``python -u script.py``, ``python -u -m module``, or a script whose first line names Python.
    """
    first, *rest = command
    if not _is_ours(first):
        interpreter = interpreter_of(first)
        if interpreter is None or not _is_ours(interpreter):
            return None
        original = (interpreter, first, *rest)
        return PythonProgram("", first, (first, *rest), original, interpreter, os.path.basename(first)[:15])
    if rest[:1] != [INTERPRETER_OPTION] or len(rest) < 2:
        return None
    if rest[1] == "-m" and len(rest) > 2:
        return PythonProgram(rest[2], "", ("-m", *rest[3:]), tuple(command), first, "")
    if rest[1].startswith("-"):
        return None
    return PythonProgram("", rest[1], tuple(rest[1:]), tuple(command), first, "")


def interpreter_of(script: str) -> str | None:
    """Return the interpreter in the first line of a script, None if it names none or one with options."""
    try:
        with open(script, "rb") as file:
            line = file.readline(300)
    except OSError:
        return None
    if not line.startswith(b"#!") or not line.endswith(b"\n"):
        return None
    words = os.fsdecode(line[2:]).split()
    return words[0] if len(words) == 1 else None


def _is_ours(path: str) -> bool:
    """Return whether a path is the interpreter of this process: another name for it, in the same folder."""
    if path == sys.executable:
        return True
    if os.path.dirname(path) != os.path.dirname(sys.executable):
        return False
    return os.path.exists(path) and os.path.samefile(path, sys.executable)
