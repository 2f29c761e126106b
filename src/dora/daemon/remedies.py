"""Remedies for the errors with which the programs of beginners end: one line each, beside the traceback.

The text is all there is: a program may fail before it imports dora, or because it imports another `dora`.
So this reads what a process has printed last; messages of every supported Python have to match.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from glob import escape, glob
from importlib.machinery import PathFinder
from typing import Final, NamedTuple

from dora.daemon.processes.interpreter import Interpreter
from dora.dataflow.model import Dataflow, NodeSpec

_CRASHES: Final = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)

# Modules whose package on PyPI has another name.
_DISTRIBUTIONS: Final = {
    "Crypto": "pycryptodome",
    "OpenGL": "PyOpenGL",
    "PIL": "pillow",
    "RPi": "RPi.GPIO",
    "attr": "attrs",
    "can": "python-can",
    "cv2": "opencv-python",
    "dateutil": "python-dateutil",
    "dotenv": "python-dotenv",
    "dynamixel_sdk": "dynamixel-sdk",
    "git": "GitPython",
    "gi": "PyGObject",
    "grpc": "grpcio",
    "mpl_toolkits": "matplotlib",
    "paho": "paho-mqtt",
    "pkg_resources": "setuptools",
    "rerun": "rerun-sdk",
    "serial": "pyserial",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "speech_recognition": "SpeechRecognition",
    "usb": "pyusb",
    "websocket": "websocket-client",
    "whisper": "openai-whisper",
    "yaml": "pyyaml",
    "zenoh": "eclipse-zenoh",
    "zmq": "pyzmq",
}

# The packages of this name on PyPI have nothing to do with the module, or many packages have a part of it.
_NO_DISTRIBUTION: Final = ("dora", "google")


class FailedProgram(NamedTuple):
    """Where a program has looked for modules."""

    python: str  # the interpreter, "" if it is not known
    install: str  # the command that installs a package for it
    folders: tuple[str, ...]  # of its own files, which come before installed packages
    project: str  # the folder of the dataflow file


def failed_program(
    dataflow: Dataflow, node: NodeSpec, interpreter: Interpreter, command: Sequence[str]
) -> FailedProgram:
    """Return the program of a node. ``interpreter`` runs its Python files, ``command`` has started it."""
    directory = dataflow.directory_of(node)
    files = [node.path] if node.path is not None else [operator.python for operator in node.operators]
    folders = [os.path.dirname(os.path.join(directory, file)) for file in files if file]
    if node.path is None:
        folders.insert(0, directory)  # `python -m` puts its own folder first
    python = interpreter.python[-1]
    install = f"{shlex.quote(python)} -m pip install"
    if environment := next((each.conda_env for each in node.operators if each.conda_env), ""):
        python = f"the conda environment {environment}"
        install = f"conda run -n {environment} python -m pip install"
    elif not _runs(python, interpreter, command):
        python = install = ""
    elif interpreter.wrapper:
        python, install = "`uv run`", "uv add"
    elif not _has_pip(python):
        install = f"uv pip install --python {shlex.quote(python)}"
    return FailedProgram(python, install, tuple(dict.fromkeys(folders)), dataflow.working_dir)


def _runs(python: str, interpreter: Interpreter, command: Sequence[str]) -> bool:
    """Return whether a command runs the interpreter, itself or as a script that pip has made for it."""
    if tuple(command[: len(interpreter.python)]) == interpreter.python:
        return True
    if interpreter.wrapper:
        return False  # uv takes a program of any environment
    try:
        with open(command[0], "rb") as file:
            first = os.fsdecode(file.readline(1024)).strip()
    except OSError:
        return False
    script_python = first.removeprefix("#!")
    return (
        first != script_python
        and os.path.dirname(script_python) == os.path.dirname(python)
        and os.path.realpath(script_python) == os.path.realpath(python)  # `python` is `python3.11` there
    )


def remedy(lines: Sequence[str], number: int | None, program: FailedProgram) -> str:
    """Return what to do about the end of a process, "" if nothing is known.

    ``lines`` are the last ones that it has printed, ``number`` is the signal that has killed it.
    """
    text = "\n".join(lines)
    if number in _CRASHES and "Fatal Python error" not in text:
        return "`--env PYTHONFAULTHANDLER=1` shows the Python lines in which a library crashed"
    for pattern, advise in _TABLE:
        for match in reversed(list(pattern.finditer(text))):
            if advice := advise(match, program):
                return advice
    return ""


def _shadowing(match: re.Match[str], program: FailedProgram) -> str:
    """Return the remedy for a file of the user that is imported instead of a package."""
    name = next(filter(None, match.groups())).partition(".")[0]
    for folder in program.folders:
        for path in (f"{folder}/{name}.py", f"{folder}/{name}/__init__.py"):
            if os.path.isfile(path) and _exists_elsewhere(name, folder):
                shown = path.removesuffix("/__init__.py")
                return f"{shown} hides the package `{name}`, because it has the same name: rename it"
    return ""


def _exists_elsewhere(name: str, folder: str) -> bool:
    if name in sys.stdlib_module_names or name in ("dora", "numpy", "pyarrow"):
        return True
    others = [path for path in sys.path if path and os.path.realpath(path) != os.path.realpath(folder)]
    return PathFinder.find_spec(name, others) is not None


def _missing(match: re.Match[str], program: FailedProgram) -> str:
    """Return the remedy for a module that is not there."""
    name = match[1]
    if "." in name:  # the package is there, in another version
        return ""
    python = program.python
    if python and name in sys.stdlib_module_names:
        return f"`{name}` is a part of Python that {python} lacks: the system has a package for it"
    for folder in (program.project, *glob(f"{escape(program.project)}/*/")):
        folder = folder.rstrip("/")
        if folder not in program.folders and _is_module(folder, name):
            return (
                f"`{name}` is in {folder}, where this program does not look: "
                f"add `env: {{PYTHONPATH: {folder}}}` to the node"
            )
    if not python or name in _NO_DISTRIBUTION:
        return ""
    package = _DISTRIBUTIONS.get(name, name)
    return f"`{name}` is not installed for {python}, which ran this: {program.install} {package}"


def _opencv_4(match: re.Match[str], program: FailedProgram) -> str:
    return f"OpenCV 5 has no `cv2.{match[1]}`, OpenCV 4 has: {program.install} 'opencv-python<5'"


def _is_module(folder: str, name: str) -> bool:
    return os.path.isfile(f"{folder}/{name}.py") or os.path.isfile(f"{folder}/{name}/__init__.py")


def _has_pip(python: str) -> bool:
    prefix = escape(os.path.dirname(os.path.dirname(python)))
    return bool(glob(f"{prefix}/lib/python*/*-packages/pip"))


def _always(advice: str) -> Callable[[re.Match[str], FailedProgram], str]:
    return lambda _match, _program: advice


# The first row that fits counts. A match is a line of the traceback; the last one is tried first.
_TABLE: Final[tuple[tuple[re.Pattern[str], Callable[[re.Match[str], FailedProgram], str]], ...]] = (
    (
        re.compile(
            r"No module named '?([\w.]+)"
            r"|cannot import name '[^']+' from (?:partially initialized module )?'([\w.]+)'"
            r"|module '([\w.]+)' has no attribute"
            r"|__path__ attribute not found on '([\w.]+)'"
            r"|ImportError: ([\w.]+) failed to import"
        ),
        _shadowing,
    ),
    (re.compile(r"^ModuleNotFoundError: No module named '([\w.]+)'$", re.MULTILINE), _missing),
    (
        re.compile(
            r"^AttributeError: module 'cv2' has no attribute '(CascadeClassifier|HOGDescriptor|ml)'",
            re.MULTILINE,
        ),
        _opencv_4,
    ),
    (
        # The line of the program, perhaps with a line of carets, and the error.
        re.compile(r"""\[["']value["']\].*\n(?: +[~^]+ *\n)?KeyError: 'value'$""", re.MULTILINE),
        _always('only an event of the type "INPUT" has a "value": look at event["type"] first'),
    ),
    (
        re.compile(
            r"^(?:ValueError: .*(?:destination|array) is read-only"
            r"|TypeError: cannot modify read-only memory"
            r"|.*provided NumPy array marked as readonly)",
            re.MULTILINE,
        ),
        _always(
            "a received array is memory that other nodes read too, so it cannot be changed; "
            "change a copy: `array = array.copy()`"
        ),
    ),
)
