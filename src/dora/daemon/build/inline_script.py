"""Environments that scripts require themselves, in inline script metadata (PEP 723)."""

from __future__ import annotations

import re

import msgspec

from dora.daemon.processes.programs import program_path
from dora.dataflow.model import Dataflow, NodeSpec, PythonEnvironment
from dora.dataflow.parser.program_sources import requirement_fault
from dora.dataflow.yaml.files import read_bytes
from dora.errors import BuildError

_BEGINNING = re.compile(r"# /// ([a-zA-Z0-9-]+)").fullmatch


def with_inline_environments(dataflow: Dataflow) -> Dataflow:
    """Return the dataflow with the environments that its scripts require in a block ``# /// script``.

    The dataflow file takes precedence. Raises `BuildError` for a block that cannot be read.
    """
    nodes = tuple(_with_inline_environment(dataflow, node) for node in dataflow.nodes)
    return dataflow if nodes == dataflow.nodes else msgspec.structs.replace(dataflow, nodes=nodes)


def _with_inline_environment(dataflow: Dataflow, node: NodeSpec) -> NodeSpec:
    if node.python is not None or node.path is None or not node.path.endswith(".py"):
        return node
    path = program_path(dataflow, node, node.path)
    try:
        text = read_bytes(path).decode()
    except (OSError, UnicodeDecodeError):
        return node  # reported when it is started
    if "# /// script" not in text:
        return node
    environment = inline_environment(text, path)
    return node if environment is None else msgspec.structs.replace(node, python=environment)


def inline_environment(text: str, path: str) -> PythonEnvironment | None:
    """Return the environment that a script requires, None if it has no block; raises `BuildError`.

    >>> inline_environment("# /// script\\n# dependencies = ['rich']\\n# ///\\n", "a.py").requirements
    ('rich',)
    """
    import tomllib

    blocks = _blocks(text)
    if not blocks:
        return None
    if len(blocks) > 1:
        raise BuildError(f"{path}: there are two blocks `# /// script`; keep one of them")
    lines = blocks[0]
    try:
        block = tomllib.loads("\n".join(line[2:] for line in lines))
    except tomllib.TOMLDecodeError as error:
        raise BuildError(f"{path}: the block `# /// script` is not TOML: {error}") from None
    version = block.get("requires-python")
    requirements = block.get("dependencies", [])
    if not isinstance(requirements, list) or not all(isinstance(item, str) for item in requirements):
        raise BuildError(f"{path}: `dependencies` in the block `# /// script` is not a list of texts")
    if version is not None and not isinstance(version, str):
        raise BuildError(f"{path}: `requires-python` in the block `# /// script` is not a text")
    if version is not None and (fault := _version_fault(version)):
        raise BuildError(f"{path}: `requires-python` in the block `# /// script` {fault}")
    for requirement in requirements:
        if fault := requirement_fault(requirement):
            raise BuildError(f"{path}: `dependencies` in the block `# /// script`: {fault}")
    return PythonEnvironment(version, tuple(requirements))


def _blocks(text: str) -> list[list[str]]:
    """Return the lines of the blocks of type ``script``.

    According to packaging.python.org/specifications/inline-script-metadata, a block ends with the last
    ``# ///`` of the comment that it begins.
    """
    found: list[list[str]] = []
    lines = text.splitlines()
    at = 0
    while at < len(lines):
        begun = _BEGINNING(lines[at])
        at += 1
        if begun is None:
            continue
        end = at
        while end < len(lines) and (lines[end] == "#" or lines[end].startswith("# ")):
            end += 1
        last = next((line for line in range(end - 1, at, -1) if lines[line] == "# ///"), None)
        if last is None:
            at = end  # no block that begins in this comment is closed
            continue
        if begun[1] == "script":
            found.append(lines[at:last])
        at = last + 1
    return found


def _version_fault(text: str) -> str:
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        SpecifierSet(text if len(text) <= 200 else "?")
    except InvalidSpecifier:
        return "is no range of versions such as `>=3.11`"
    return ""
