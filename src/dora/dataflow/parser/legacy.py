"""Dataflow files of dora 0.x, and common misspellings, rewritten to what they mean today.

The tree is changed before any other part reads it, so that the other parts know only the fields of today.
Each part keeps its place in the file. Each old field gets one warning, where it stands first.
"""

from __future__ import annotations

from dora.dataflow.problems import ProblemReport
from dora.dataflow.yaml.tree import MappingNode, ScalarNode, SequenceNode, YamlNode

_CUSTOM = {"source": "path", "envs": "env"}  # fields of `custom` with another name today
_MISSPELT = "queue-size"
_DEPLOY, _DEBUG, _INSPECT = "_unstable_deploy", "_unstable_debug", "publish_all_messages_to_zenoh"


def upgrade_legacy(root: MappingNode, report: ProblemReport) -> None:
    """Replace the fields of dora 0.x in a dataflow by today's."""
    legacy = _LegacyFields(report)
    legacy.rename(root, _DEPLOY, "deploy")
    legacy.rename(root, _DEBUG, "debug")
    debug = root.get("debug")
    if isinstance(debug, MappingNode):
        legacy.rename(debug, _INSPECT, "enable_debug_inspection")
    if "communication" in root.entries:
        legacy.warn(root.entries.pop("communication")[0], "remove it: there is nothing to choose any more")
    nodes = root.get("nodes")
    for node in nodes.items if isinstance(nodes, SequenceNode) else ():
        if isinstance(node, MappingNode):
            legacy.rename(node, _DEPLOY, "deploy")
            legacy.lift_custom(node)
            legacy.adapt_inputs(node)
            operators = node.get("operators")
            blocks = operators.items if isinstance(operators, SequenceNode) else ()
            for operator in (node.get("operator"), *blocks):
                if isinstance(operator, MappingNode):
                    legacy.adapt_inputs(operator)


def _is_local(source: YamlNode) -> bool:
    """Return whether a ``source`` only means that the program, its ``path``, is on this machine."""
    return isinstance(source, ScalarNode) and source.text == "Local"


class _LegacyFields:
    """Renames old fields, and warns about each name once."""

    def __init__(self, report: ProblemReport) -> None:
        self._report = report
        self._warned: set[str] = set()

    def warn(self, key: ScalarNode, hint: str) -> None:
        if key.text not in self._warned:
            self._warned.add(key.text)
            self._report.warn(key, f"the field `{key.text}` is of dora 0.x", hint)

    def rename(self, block: MappingNode, old: str, new: str) -> None:
        entry = block.entries.pop(old, None)
        if entry is not None:
            self.warn(entry[0], f"it is called `{new}` now")
            self._put(block, new, entry)

    def adapt_inputs(self, block: MappingNode) -> None:
        """Read ``queue-size`` as ``queue_size``, and leave out ``metadata``; dora-rs ignores both."""
        inputs = block.get("inputs")
        for _, item in inputs.entries.values() if isinstance(inputs, MappingNode) else ():
            if not isinstance(item, MappingNode):
                continue
            if "metadata" in item.entries:
                key, _ = item.entries.pop("metadata")
                self._report.warn(
                    key, "`metadata` of an input has no effect", "the sender writes the metadata"
                )
            if _MISSPELT in item.entries:
                entry = item.entries.pop(_MISSPELT)
                if "queue_size" not in item.entries:
                    self._report.warn(
                        entry[0], f"`{_MISSPELT}` is read as `queue_size`", "write `queue_size`"
                    )
                self._put(item, "queue_size", entry)

    def lift_custom(self, node: MappingNode) -> None:
        """Move what is in `custom` up into the node."""
        if "custom" not in node.entries:
            return
        key, custom = node.entries.pop("custom")
        if isinstance(custom, MappingNode):
            self.warn(
                key, "move `source` to `path`, `envs` to `env`, and the rest of `custom` up into the node"
            )
            for name, entry in custom.entries.items():
                if name != "source" or not _is_local(entry[1]):
                    self._put(node, _CUSTOM.get(name, name), entry)
        elif not (isinstance(custom, ScalarNode) and custom.value is None):
            self._report.error(custom, "expected a mapping for `custom`", "or write `path: <program>`")

    def _put(self, block: MappingNode, name: str, entry: tuple[ScalarNode, YamlNode]) -> None:
        key, _ = entry
        if name in block.entries:
            there = block.entries[name][0].line + 1
            self._report.error(
                key, f"`{key.text}` means the same as `{name}` on line {there}", "remove one of them"
            )
        else:
            block.entries[name] = entry
