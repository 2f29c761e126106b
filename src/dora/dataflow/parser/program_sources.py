"""Where a node's Python and its files come from: ``python``, ``git`` and its kin, URLs as ``path``."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from dora.dataflow.model import Download, GitSource, PythonEnvironment
from dora.dataflow.problems import ProblemReport, listed
from dora.dataflow.yaml.field_types import FieldType, ListType, Reader, RuledTextType, Schema, TextType
from dora.dataflow.yaml.schema_block import CheckedBlock, Field, SchemaBlock
from dora.dataflow.yaml.tree import ScalarNode, YamlNode

OLDEST = (3, 11)  # that dora runs on
CLONES = ".dora/git"  # in the working directory
DOWNLOADS = ".dora/downloads"

_CLAUSE = r"((==|~=|!=|<=|>=|<|>) *)?3(\.[0-9]+){0,2}(\.\*)?"
_SHA256 = "[0-9A-Fa-f]{64}"
_VERSION = rf"{_CLAUSE}( *, *{_CLAUSE})*"


def _version_fault(text: str) -> tuple[str, str] | None:
    text = text.strip()
    if len(text) > 100 or not re.fullmatch(_VERSION, text):
        return f"`{text}` is not a version of Python", 'write for example "3.12" or ">=3.11,<3.13"'
    parts = text.split(".")
    if parts[0] == "3" and len(parts) > 1 and parts[1].isdigit() and (3, int(parts[1])) < OLDEST:
        return f"dora needs Python {'.'.join(map(str, OLDEST))} or newer, not {text}", ""
    return None


def _requirement_fault(text: str) -> tuple[str, str] | None:
    hint = "list what is needed, for example `numpy>=2`; a `build` line may use options"
    return (fault, hint) if (fault := requirement_fault(text)) else None


def requirement_fault(text: str) -> str:
    """Return why a text cannot be one requirement, which pip reads from a file of them; "" if it can."""
    if not text.isprintable():
        return f"`{_printable(text)}` holds a control character, so it is not one requirement"
    option = text.strip()
    if option.startswith("-e "):
        option = option.removeprefix("-e ").lstrip()
    return f"`{text}` is an option of pip, not a requirement" if option.startswith("-") else ""


def repository_fault(text: str) -> str:
    """Return why git must not be given an address, as the end of a sentence; "" if it may.

    >>> repository_fault("--upload-pack=x"), repository_fault("https://example.com/a.git")
    ('begins with a dash, which git would read as an option', '')
    """
    if not text.isprintable():
        return "holds a control character"
    if text.lstrip().startswith("-"):
        return "begins with a dash, which git would read as an option"
    if helper := re.match(r"\s*([A-Za-z0-9+.-]{1,100})::", text):
        return f"asks for the helper program `git-remote-{helper[1]}`, which dora does not run"
    return ""


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


_PYTHON_VERSION = RuledTextType(
    "a version of Python", _version_fault, {"type": ["string", "number"], "pattern": f"^{_VERSION}$"}
)
_REQUIREMENT = RuledTextType("a requirement", _requirement_fault, TextType(may_be_empty=False).schema())
_ENVIRONMENT = SchemaBlock(
    "`python`",
    [
        Field("version", _PYTHON_VERSION, 'The version, "3.12", or a range, ">=3.11,<3.13".'),
        Field(
            "requirements",
            ListType(_REQUIREMENT, "requirements"),
            "The packages that the node needs, as pip understands them. dora need not be among them.",
        ),
    ],
)


def _checksum_fault(text: str) -> tuple[str, str] | None:
    if re.fullmatch(_SHA256, text):
        return None
    return f"`{text}` is not a SHA-256", "it has 64 hexadecimal digits; `sha256sum FILE` prints it"


CHECKSUM = RuledTextType("a SHA-256", _checksum_fault, {"type": "string", "pattern": f"^{_SHA256}$"})


class PythonOfNode(FieldType[CheckedBlock]):
    """The version and the packages of a node's Python."""

    def read(self, value: YamlNode, reader: Reader) -> CheckedBlock | None:
        if isinstance(value, ScalarNode) and isinstance(value.value, str) and value.text.endswith(".py"):
            reader.report.error(
                value,
                "the file of a node is its `path`; `python` says which Python and packages it needs",
                f"write `path: {value.text}`, or `operator: {{python: {value.text}}}` for an operator",
            )
            return None
        return _ENVIRONMENT.read(value, reader)

    def stored(self, value: YamlNode) -> Any:
        return _ENVIRONMENT.stored(value)

    def schema(self) -> Schema:
        return _ENVIRONMENT.schema()


PYTHON = PythonOfNode()


def python_environment(node: CheckedBlock) -> PythonEnvironment | None:
    """Return what a node's field ``python`` asks for."""
    block = node.get("python")
    if block is None:
        return None
    version: str | None = block.get("version")
    return PythonEnvironment(version and version.strip(), tuple(block.get("requirements") or ()))


def git_source(node: CheckedBlock, report: ProblemReport, owner: str) -> GitSource | None:
    """Return the repository of a node; report fields that do not fit together."""
    chosen = [name for name in ("branch", "tag", "rev") if node.has(name)]
    if not node.has("git"):
        for name in chosen:
            report.error(node.keys[name], f"`{name}` of {owner} has no effect without `git`")
        return None
    if len(chosen) > 1:
        report.error(
            node.keys[chosen[1]],
            f"{owner} has both {listed(chosen)}",
            "keep one: each of them names a commit",
        )
    if not node.has("path"):
        report.error(
            node.keys["git"],
            f"{owner} has `git`, but nothing to run",
            "add `path:`, relative to the repository",
        )
    repository: str | None = node.get("git")
    if repository is None:
        return None
    if fault := repository_fault(repository):
        hint = "give the address of a repository, for example `https://host/name.git`, or a folder"
        report.error(node.place("git"), f"the address of {owner} {fault}", hint)
        return None
    for name in chosen:
        if (node.get(name) or "").startswith("-"):
            report.error(node.place(name), f"a {name} cannot begin with a dash")
        elif not (node.get(name) or "").isprintable():
            report.error(node.place(name), f"a {name} cannot hold a control character")
    source = GitSource(repository, "", *(node.get(name) for name in ("branch", "tag", "rev")))
    return GitSource(repository, _folder(source), source.branch, source.tag, source.rev)


def is_url(path: str | None) -> bool:
    """Return whether a path is one of a file on the web."""
    return path is not None and path.startswith(("http://", "https://"))


def download_of(
    block: CheckedBlock, report: ProblemReport, owner: str, python: CheckedBlock | None = None
) -> Download | None:
    """Return the file on the web that a node or operator runs; report fields that do not fit together.

    ``python``: the field of that name, of an operator.
    """
    name, place = ("path", block.place("path")) if python is None else ("python", python.place("source"))
    url: str | None = block.get("path") if python is None else python.get("source")
    if url is None or not is_url(url):
        if block.has("path_sha256") and not block.failed(name):
            message = f"`path_sha256` of {owner} has no effect, because its `{name}` is no URL"
            report.error(block.keys["path_sha256"], message)
        return None
    if fault := _url_fault(url):
        report.error(place, f"this is no address of a file on the web: {fault}")
        return None
    if block.has("git"):
        report.error(place, f"{owner} comes from `git` as well as from a URL", "keep one of them")
    if url.startswith("http://") and not block.has("path_sha256"):
        report.warn(
            place,
            "this program is downloaded without encryption, so anybody on the way can exchange it",
            "use `https://`, or add `path_sha256`",
        )
    checksum: str | None = block.get("path_sha256")
    return Download(url, checksum and checksum.lower())


def _url_fault(url: str) -> str:
    """Return why a text cannot be a URL, "" if it can."""
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
        _ = parts.port  # checked when it is read
    except ValueError as error:
        return str(error)
    return "" if parts.hostname else "it names no host"


def downloaded_path(url: str, ending: str = "") -> str:
    """Return where a downloaded file is put: under its own name, apart from files of other URLs.

    The name gets the ``ending`` if it does not have it.
    """
    from hashlib import sha256
    from urllib.parse import unquote, urlsplit

    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", unquote(urlsplit(url).path).rstrip("/").rpartition("/")[2])
    name = (name.strip("-") or "node").removesuffix(ending) + ending
    return f"{DOWNLOADS}/{sha256(url.encode()).hexdigest()[:8]}/{name}"


def pinned(source: GitSource, commit: str) -> GitSource:
    """Return the same repository at a commit."""
    source = GitSource(source.secret_address, "", rev=commit)
    return msgspec.structs.replace(source, folder=_folder(source))


def _folder(source: GitSource) -> str:
    """Return where a clone goes: a readable name, and a digest, as other nodes want other commits."""
    from hashlib import sha256

    name = re.split(r"[/:\\]", source.repository.rstrip("/"))[-1].removesuffix(".git")
    readable = re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip(".-") or "repository"
    # The password counts: a clone fetches with the one that it was made with.
    asked = repr((source.secret_address, source.branch, source.tag, source.rev))
    return f"{CLONES}/{readable}-{sha256(asked.encode()).hexdigest()[:8]}"
