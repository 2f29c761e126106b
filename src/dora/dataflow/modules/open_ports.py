"""Take out what a node says about inputs that went with an open port of its module."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

from dora.dataflow.ros2 import port_of_topic
from dora.dataflow.yaml.tree import MappingNode, ScalarNode, SequenceNode, YamlNode

Entries = dict[str, tuple[ScalarNode, YamlNode]]

_SMALLEST_GROUP: Final = 2  # inputs


def change_entry(entries: Entries, field: str, change: Callable[[YamlNode], YamlNode]) -> None:
    """Exchange the value of a field, if there is one."""
    if field in entries:
        key, value = entries[field]
        entries[field] = key, change(value)


def forget_inputs(entries: Entries, gone: Collection[str]) -> None:
    """Remove inputs from the fields of a node or operator that name them: types, groups, topics of ROS.

    Of a group with one input left, nothing is left.
    """
    if not gone:
        return
    change_entry(entries, "input_types", lambda types: _without(types, gone))
    change_entry(entries, "sync", lambda groups: _smaller_groups(groups, gone))
    change_entry(entries, "ros2", lambda block: _with_fewer_topics(block, gone))


def _without(value: YamlNode, gone: Collection[str]) -> YamlNode:
    """Return a mapping or a list without some names."""
    if isinstance(value, MappingNode):
        entries = {name: entry for name, entry in value.entries.items() if name not in gone}
        return MappingNode.of(entries, value)
    if isinstance(value, SequenceNode):
        return SequenceNode.of([item for item in value.items if str(item) not in gone], value)
    return value


def _smaller_groups(groups: YamlNode, gone: Collection[str]) -> YamlNode:
    if not isinstance(groups, SequenceNode):
        return groups
    smaller = (_smaller_group(group, gone) for group in groups.items)
    return SequenceNode.of([group for group in smaller if _is_group(group)], groups)


def _smaller_group(group: YamlNode, gone: Collection[str]) -> YamlNode:
    if not isinstance(group, MappingNode):
        return group
    entries = dict(group.entries)
    for field in ("inputs", "history"):
        change_entry(entries, field, lambda names: _without(names, gone))
    return MappingNode.of(entries, group)


def _is_group(group: YamlNode) -> bool:
    inputs = group.get("inputs") if isinstance(group, MappingNode) else None
    return not isinstance(inputs, SequenceNode) or len(inputs.items) >= _SMALLEST_GROUP


def _with_fewer_topics(block: YamlNode, gone: Collection[str]) -> YamlNode:
    """Return a block ``ros2`` without the topics whose messages would come from inputs that are gone."""
    if not isinstance(block, MappingNode):
        return block
    entries = dict(block.entries)
    change_entry(entries, "topics", lambda topics: _topics_of_others(topics, gone))
    return MappingNode.of(entries, block)


def _topics_of_others(topics: YamlNode, gone: Collection[str]) -> YamlNode:
    if not isinstance(topics, SequenceNode):
        return topics
    return SequenceNode.of([topic for topic in topics.items if _input_of(topic) not in gone], topics)


def _input_of(topic: YamlNode) -> str | None:
    """Return the input with the messages of a topic; None for a topic from ROS."""
    if not isinstance(topic, MappingNode) or str(topic.get("direction")) != "publish":
        return None
    return str(topic.get("input") or port_of_topic(str(topic.get("topic"))))
