"""What a script says about its own environment: the block ``# /// script`` at its head (PEP 723)."""

from __future__ import annotations

import os
import re

import msgspec

from dora.dataflow.model import Dataflow, Node, PythonEnvironment
from dora.errors import BuildError

# From the specification, packaging.python.org/specifications/inline-script-metadata.
_BLOCK = re.compile(r"(?m)^# /// (?P<type>[a-zA-Z0-9-]+)$\s(?P<content>(^#(| .*)$\s)+)^# ///$")


def with_inline_environments(dataflow: Dataflow) -> Dataflow:
    """Return the dataflow in which nodes whose scripts have such a block ask for what it says.

    What the dataflow file says goes before. Raises `BuildError` for a block that cannot be read.
    """
    nodes = tuple(_with_inline_environment(dataflow, node) for node in dataflow.nodes)
    return dataflow if nodes == dataflow.nodes else msgspec.structs.replace(dataflow, nodes=nodes)


def _with_inline_environment(dataflow: Dataflow, node: Node) -> Node:
    if node.python is not None or node.path is None or not node.path.endswith(".py"):
        return node
    path = os.path.join(dataflow.directory_of(node), os.path.expanduser(node.path))
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError):
        return node  # said where it is run
    if "# /// script" not in text:
        return node
    environment = inline_environment(text, path)
    return node if environment is None else msgspec.structs.replace(node, python=environment)


def inline_environment(text: str, path: str) -> PythonEnvironment | None:
    """Return what the block in a script asks for, None if there is no block; raises `BuildError`.

    >>> inline_environment("# /// script\\n# dependencies = ['rich']\\n# ///\\n", "a.py").requirements
    ('rich',)
    """
    import tomllib

    blocks = [match for match in _BLOCK.finditer(text) if match["type"] == "script"]
    if not blocks:
        return None
    if len(blocks) > 1:
        raise BuildError(f"{path}: there are two blocks `# /// script`; keep one of them")
    lines = blocks[0]["content"].splitlines()
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
    return PythonEnvironment(version, tuple(requirements))
