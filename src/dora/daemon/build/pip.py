"""Build commands that install Python packages (`pip`, `python -m pip`, `uv pip`); unmet requirements."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from dora.daemon.build.shadowing import PROVIDED
from dora.daemon.processes.programs import BUILTIN_NODES, RUST_PACKAGES
from dora.dataflow.yaml.files import read_bytes

# Options of `pip install` and `uv pip install` that take a value in a word of its own. An option that
# is not here counts as a flag, and the word behind it as a requirement, which is right for most.
_WITH_VALUE_TEXT = """
-b -c -C -e -f -i -p -r -t -P --abi --build-constraint --build-constraints --cache-dir --cert --client-cert
--config-setting --config-settings --constraint --constraints --default-index --editable --exclude-newer
--exists-action --extra --extra-index-url --find-links --global-option --group --implementation --index
--index-strategy --index-url --keyring-provider --link-mode --log --no-binary --only-binary --override
--overrides --platform --prefix --prerelease --progress-bar --proxy --python --python-platform
--python-version --refresh-package --reinstall-package --report --requirement --requirements --resolution
--retries --root --src --target --timeout --torch-backend --trusted-host --upgrade-package
--upgrade-strategy
"""
_WITH_VALUE = frozenset(_WITH_VALUE_TEXT.split())
_EDITABLE = ("-e", "--editable")
_ARCHIVES = (".whl", ".tar.gz", ".zip")
_FILES = ("-r", "--requirement", "--requirements")
# Options with which there is still nothing to do if every requirement is met.
_HARMLESS_TEXT = """
-q -qq --quiet -v --verbose --no-input --no-cache-dir --no-cache --disable-pip-version-check --prefer-binary
--no-warn-script-location --no-build-isolation --no-color --root-user-action --break-system-packages
-i --index-url --extra-index-url --index --default-index -f --find-links --trusted-host --progress-bar
--timeout --retries --proxy --system
"""
_HARMLESS = frozenset(_HARMLESS_TEXT.split())
# Build systems whose packages hold nothing compiled, so an editable install always equals its source.
_PURE_BACKENDS = ("hatchling", "flit_core", "poetry.core", "pdm.backend", "uv_build")
# Endings of sources that setuptools compiles.
_COMPILED = (".c", ".cc", ".cpp", ".cxx", ".cu", ".f90", ".pyx", ".rs")
_OTHERS = frozenset({"venv", "node_modules", "build", "out", "__pycache__"})  # folders without sources
_MAX_FOLDERS = 1000  # in which such sources are looked for; a larger project is installed again


@dataclass(frozen=True)
class PipCommand:
    """A command ``pip <verb> <words>``."""

    verb: str
    words: tuple[str, ...]
    uv: bool = False  # written as `uv pip`

    @property
    def installs(self) -> bool:
        return self.verb == "install"


def pip_command(words: Sequence[str]) -> PipCommand | None:
    """Return a command of pip or uv in parts, None for any other command.

    >>> pip_command(["python3", "-m", "pip", "install", "numpy"])
    PipCommand(verb='install', words=('numpy',), uv=False)
    >>> pip_command(["uv", "pip", "list"])
    PipCommand(verb='list', words=(), uv=True)
    """
    match words:
        case ["pip" | "pip3", *rest]:
            uv = False
        case ["python" | "python3", "-m", "pip", *rest]:
            uv = False
        case ["uv", "pip", *rest]:
            uv = True
        case _:
            return None
    return PipCommand(rest[0] if rest else "", tuple(rest[1:]), uv)


@dataclass(frozen=True)
class RequestedPackage:
    """A requirement, a project, a file or an option of ``install``, with its words."""

    words: tuple[str, ...]
    requirement: str = ""  # a requirement by name
    path: str = ""  # a local project
    editable: bool = False
    file: str = ""  # of requirements
    option: bool = False

    @property
    def name(self) -> str:
        """The package's name in its usual spelling, "" if it is not known."""
        return _name(self.requirement) if self.requirement else _name_of_project(self.path)


def requests(words: Sequence[str], directory: str) -> Iterator[RequestedPackage]:
    """Parse the words behind ``install``; paths are relative to ``directory``."""
    rest = list(words)
    while rest:
        word = rest.pop(0)
        option, equals, value = word.partition("=")
        taken: tuple[str, ...] = (word,)
        if not word.startswith("-"):
            if _name(word) and not word.endswith(_ARCHIVES):
                yield RequestedPackage(taken, requirement=word)
            else:
                yield RequestedPackage(taken, path=_path(word, directory))
            continue
        if not equals and option in _WITH_VALUE and rest:
            value = rest.pop(0)
            taken = (word, value)
        elif not word.startswith("--") and len(word) > 2 and word[:2] in ("-r", "-e", "-c", "-i", "-f"):
            option, value = word[:2], word[2:]
        if option in _EDITABLE:
            yield RequestedPackage(taken, path=_path(value, directory), editable=True)
        elif option in _FILES:
            yield RequestedPackage(taken, file=os.path.join(directory, value))
        else:
            yield RequestedPackage(taken, option=True)


@dataclass
class Installation:
    """An ``install`` command without the packages that dora provides."""

    words: list[str] = field(default_factory=list)
    provided: list[str] = field(default_factory=list)  # dora-rs and the like, left out
    refused: list[str] = field(default_factory=list)  # programs that cannot work
    builtin: list[str] = field(default_factory=list)  # packages that a node of dora replaces
    requirements: list[str] = field(default_factory=list)  # by name, also from files
    asks: bool = False  # something is left to be installed
    certain: bool = True  # every requested package is in `requirements` or installed already


def plan(words: Sequence[str], directory: str) -> Installation:
    """Decide what to do with the words behind ``install``."""
    result = Installation()
    for request in requests(words, directory):
        if request.option:
            result.words += request.words
            result.certain = result.certain and request.words[0].partition("=")[0] in _HARMLESS
            continue
        name = request.name
        if name in PROVIDED:
            result.provided.append(name)
        elif name in RUST_PACKAGES:
            result.refused.append(name)
        elif name in BUILTIN_NODES:
            requirement = BUILTIN_NODES[name].requirement
            result.builtin.append(name)
            if not requirement:
                continue
            result.requirements.append(requirement)
            result.words.append(requirement)
            result.asks = True
        else:
            result.words += request.words
            result.asks = True
            if request.requirement:
                result.requirements.append(request.requirement)
                result.certain = (
                    result.certain and "@" not in request.requirement
                )  # who knows what a URL has
            elif request.file:
                lines = _requirements_of(request.file)
                result.requirements += lines or ()
                result.certain = result.certain and lines is not None
            else:
                in_place = _in_place(request)
                result.requirements += [in_place] if in_place else []
                result.certain = result.certain and bool(in_place)
    return result


def _name(requirement: str) -> str:
    try:
        return canonicalize_name(Requirement(requirement).name)
    except InvalidRequirement:
        return ""


def _path(word: str, directory: str) -> str:
    """Return the folder that a word names, with the extras behind it taken off."""
    return os.path.normpath(os.path.join(directory, word.partition("[")[0].removeprefix("file://")))


def _project(folder: str) -> dict[str, object]:
    try:
        return tomllib.loads(read_bytes(os.path.join(folder, "pyproject.toml")).decode())
    except (OSError, ValueError, RecursionError):
        return {}  # there is none, or pip reports it


def _name_of_project(folder: str) -> str:
    project = _project(folder).get("project") if folder else None
    name = project.get("name") if isinstance(project, dict) else None
    return canonicalize_name(name) if isinstance(name, str) else ""


def _requirements_of(file: str) -> list[str] | None:
    """Return the requirements in a file, None if there is more in it than plain requirements."""
    found = []
    try:
        for line in read_bytes(file).decode().splitlines():
            text = line.partition(" #")[0].strip()
            if not text or text.startswith("#"):
                continue
            if not _name(text):
                return None
            found.append(text)
    except (OSError, UnicodeDecodeError):
        return None  # pip reports it
    return found


def _in_place(request: RequestedPackage) -> str:
    """Return the requirement for an editable project that is installed and up to date, else "".

    It is if its folder is installed, and its project files have not changed since.
    """
    name = _name_of_project(request.path)
    if not (request.editable and name and _holds_nothing_compiled(request.path)):
        return ""
    try:
        files = distribution(name).files or ()
    except PackageNotFoundError:
        return ""
    note = next((str(file.locate()) for file in files if file.name == "direct_url.json"), "")
    try:
        with open(note, encoding="utf-8") as text:
            origin = json.load(text)
        installed_at = os.path.getmtime(note)
    except (OSError, ValueError):
        return ""
    if origin.get("url") != Path(request.path).as_uri() or not origin.get("dir_info", {}).get("editable"):
        return ""
    project_files = [f"{request.path}/{file}" for file in ("pyproject.toml", "setup.cfg", "setup.py")]
    if any(os.path.exists(file) and os.path.getmtime(file) > installed_at for file in project_files):
        return ""
    _, bracket, extras = request.words[-1].partition("[")
    return f"{name}{bracket}{extras}"


def _holds_nothing_compiled(folder: str) -> bool:
    """Return whether an editable install of a project holds nothing that is made of its sources.

    With setuptools that is certain only if no file says how to compile, and none could be compiled.
    """
    project = _project(folder)
    system, tools = project.get("build-system"), project.get("tool")
    backend = str(system.get("build-backend", "")) if isinstance(system, dict) else ""
    if backend.startswith(_PURE_BACKENDS):
        return True
    own = tools.get("setuptools") if isinstance(tools, dict) else None
    if not backend.startswith("setuptools") or (isinstance(own, dict) and "ext-modules" in own):
        return False
    if os.path.exists(f"{folder}/setup.py"):
        return False
    for count, (_, folders, names) in enumerate(os.walk(folder)):
        if count == _MAX_FOLDERS or any(name.endswith(_COMPILED) for name in names):
            return False
        folders[:] = [name for name in folders if not name.startswith(".") and name not in _OTHERS]
    return True


# --------------------------------------------------------------------------- unmet requirements
#
# pip can check them as well, but takes half a second for it, at every `dora run`.


@dataclass(frozen=True)
class Fault:
    """A requirement that is not met."""

    requirement: str
    required_by: str  # the distribution that requires it, "" if a build command does
    found: str | None  # the version that is installed, None if there is none

    def __str__(self) -> str:
        who = f"{self.required_by} requires {self.requirement}" if self.required_by else self.requirement
        return f"{who}, but " + (f"{self.found} is installed" if self.found else "it is not installed")


def faults(requirements: Iterable[str]) -> list[Fault]:
    """Return the requirements that are not met, among these and, in turn, theirs.

    ``dora-rs`` counts as met in every version, and so does what is required by a URL. A requirement that
    cannot be read counts as not met.
    """
    found: list[Fault] = []
    done: set[tuple[str, str]] = set()
    waiting = [(text, "", "") for text in requirements]
    while waiting:
        text, required_by, extra = waiting.pop()
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            found.append(Fault(text, required_by, None))
            continue
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        if name in PROVIDED:
            continue
        package = _installed(name)
        if package is None or not requirement.specifier.contains(package.version, True):
            version = package.version if package is not None else None
            shown = str(requirement).partition(";")[0].strip()
            found.append(Fault(shown, required_by, version))
            continue
        for wanted in ("", *sorted(requirement.extras)):
            if (name, wanted) not in done:
                done.add((name, wanted))
                waiting += ((line, package.name, wanted) for line in package.requires or ())
    return found


def _installed(name: str) -> Distribution | None:
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None
