"""The dataflow file beside its graph: its text, and the lines of each node."""

from __future__ import annotations

from typing import Any, Final

import yaml

from dora.dataflow.yaml.files import open_to_read

MAX_TEXT: Final = 1 << 20  # bytes


def source_of(file: str | None) -> dict[str, Any] | None:
    """Return the text of a dataflow file as it is now, and the lines of its nodes; None without one."""
    if file is None or "://" in file:
        return None
    try:
        with open(open_to_read(file), encoding="utf-8", errors="replace") as opened:
            text = opened.read(MAX_TEXT)
    except OSError:
        return None
    return {"text": text, "lines": lines_of_nodes(text)}


def lines_of_nodes(text: str) -> dict[str, tuple[int, int]]:
    """Return the first and the last line of each node, counted from 1; {} if it is no dataflow.

    >>> lines_of_nodes("nodes:\\n  - id: a\\n    path: a.py\\n  - id: b\\n")
    {'a': (2, 3), 'b': (4, 4)}
    """
    try:
        document = yaml.compose(
            text, Loader=yaml.CSafeLoader if hasattr(yaml, "CSafeLoader") else yaml.SafeLoader
        )
    except (yaml.YAMLError, RecursionError):
        return {}
    lines = text.splitlines()
    nodes = _entry(document, "nodes")
    found: dict[str, tuple[int, int]] = {}
    for item in nodes.value if isinstance(nodes, yaml.SequenceNode) else ():
        name = _entry(item, "id")
        if isinstance(name, yaml.ScalarNode):
            last = max(item.end_mark.line, item.start_mark.line + 1)
            while last > item.start_mark.line + 1 and not lines[last - 1].strip():
                last -= 1
            found[name.value] = (item.start_mark.line + 1, last)
    return found


def _entry(node: Any, key: str) -> Any:
    if not isinstance(node, yaml.MappingNode):
        return None
    return next((value for name, value in node.value if getattr(name, "value", None) == key), None)
