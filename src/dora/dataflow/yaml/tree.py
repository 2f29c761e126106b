"""YAML as a tree of nodes that remember their place; such a tree written as YAML.

An unquoted scalar means what YAML 1.2 says (core schema, section 10.3.2), not what YAML 1.1 says, which
PyYAML follows: there ``yes``, ``on`` and ``off`` are booleans, ``1:30`` is the number 90 and ``017`` is 15.
Dataflows use such words as ids and in environment variables, so here they stay text.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from dora.dataflow.problems import Origin, TextSpan

Plain = None | bool | int | float | str

_NAMED: dict[str, Plain] = {"": None, "~": None}
for _word, _value in (("null", None), ("true", True), ("false", False)):
    _NAMED |= {_word: _value, _word.capitalize(): _value, _word.upper(): _value}
for _word in (".inf", ".Inf", ".INF"):
    _NAMED |= {_word: float("inf"), "+" + _word: float("inf"), "-" + _word: float("-inf")}
for _word in (".nan", ".NaN", ".NAN"):
    _NAMED[_word] = float("nan")

_DECIMAL = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_OCTAL = re.compile(r"0o[0-7]+")
_HEXADECIMAL = re.compile(r"0x[0-9a-fA-F]+")
_MAY_BE_NUMBER = frozenset("0123456789+-.")


def resolve(text: str) -> Plain:
    """Return the value of an unquoted scalar.

    An integer that needs more than 64 bits becomes a float, because msgpack and Arrow cannot carry it.

    >>> [resolve(text) for text in ("yes", "true", "0o17", "017", "1e3", "~", "1:30")]
    ['yes', True, 15, 17, 1000.0, None, '1:30']
    """
    if text in _NAMED:
        return _NAMED[text]
    if text[0] not in _MAY_BE_NUMBER:
        return text
    if _DECIMAL.fullmatch(text):
        # int() refuses thousands of digits, float() does not.
        return _bounded(int(text)) if len(text) <= 40 else float(text)
    if _OCTAL.fullmatch(text):
        return _bounded(int(text[2:], 8))
    if _HEXADECIMAL.fullmatch(text):
        return _bounded(int(text[2:], 16))
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


def _bounded(number: int) -> int | float:
    if -(2**63) <= number < 2**64:
        return number
    try:
        return float(number)
    except OverflowError:
        return float("inf")


# --------------------------------------------------------------------------- writing

_WIDTH = 88  # characters of a list or mapping that may stand on one line


def to_yaml(root: MappingNode) -> str:
    """Return the YAML text of a tree; numbers and flags keep the notation of the file."""
    import yaml

    def events() -> Iterator[Any]:
        yield yaml.StreamStartEvent()
        yield yaml.DocumentStartEvent(explicit=False)
        yield from _events(root, yaml, 0)
        yield yaml.DocumentEndEvent(explicit=False)
        yield yaml.StreamEndEvent()

    text: str = yaml.emit(events(), Dumper=yaml.SafeDumper, width=1 << 30, allow_unicode=True)
    return text


def _events(value: YamlNode, yaml: Any, depth: int) -> Iterator[Any]:
    """Yield events for PyYAML's emitter, which itself would quote text by the rules of YAML 1.1."""
    if isinstance(value, ScalarNode):
        yield _scalar(value, yaml)
    elif isinstance(value, SequenceNode):
        yield yaml.SequenceStartEvent(None, None, True, flow_style=_fits_a_line(value))
        for item in value.items:
            yield from _events(item, yaml, depth + 1)
        yield yaml.SequenceEndEvent()
    elif isinstance(value, MappingNode):
        # From the options of an input on, which are four levels deep.
        flow = depth > 3 and _fits_a_line(value)
        yield yaml.MappingStartEvent(None, None, True, flow_style=flow)
        for key, item in value.entries.values():
            yield _scalar(ScalarNode.of(key.text, key), yaml)
            yield from _events(item, yaml, depth + 1)
        yield yaml.MappingEndEvent()


def _fits_a_line(value: SequenceNode | MappingNode) -> bool:
    if isinstance(value, SequenceNode):
        items: list[YamlNode] = list(value.items)
        length = 0
    else:
        items = [item for _, item in value.entries.values()]
        length = sum(len(name) + 2 for name in value.entries)
    return (
        all(isinstance(item, ScalarNode) and "\n" not in item.text for item in items)
        and length + sum(len(item.text) + 2 for item in items if isinstance(item, ScalarNode)) <= _WIDTH
    )


def _scalar(scalar: ScalarNode, yaml: Any) -> Any:
    text = scalar.text
    if scalar.value is None:
        text = "null"
    is_text = isinstance(scalar.value, str)
    may_be_plain = not is_text or (text not in ("", "<<") and isinstance(resolve(text), str))
    lines = text.split("\n")
    style = "|" if len(lines) > 1 else None
    if not all(line.isprintable() for line in lines):
        style = '"'  # the only one with escapes
    return yaml.ScalarEvent(None, None, (may_be_plain, True), text, style=style)


# --------------------------------------------------------------------------- the tree


class YamlNode(TextSpan, ABC):
    """A node of the tree. ``size`` and ``depth`` measure its subtree, with aliases written out."""

    __slots__ = ("depth", "size")

    def __init__(self, line: int, column: int, end_line: int, end_column: int) -> None:
        super().__init__(line, column, end_line, end_column)
        self.size = 1
        self.depth = 1

    @abstractmethod
    def plain(self) -> Any:
        """Return this value as plain Python objects."""

    @abstractmethod
    def copied(self, origin: Origin) -> YamlNode:
        """Return a copy whose place is in another file."""

    def _moved(self, copy: YamlNode, origin: Origin) -> None:
        copy.size, copy.depth, copy.origin = self.size, self.depth, origin


class ScalarNode(YamlNode):
    """A scalar: its ``text`` without quotes, its ``value``, and whether it was ``quoted``."""

    __slots__ = ("quoted", "text", "value")

    text: str
    value: Plain
    quoted: bool

    @classmethod
    def of(cls, text: str, at: TextSpan) -> ScalarNode:
        """Return a text with the place of ``at``."""
        scalar = cls(at.line, at.column, at.end_line, at.end_column)
        scalar.text, scalar.value, scalar.quoted = text, text, True
        scalar.origin = at.origin
        return scalar

    def __str__(self) -> str:
        return self.text

    def plain(self) -> Plain:
        return self.value

    def copied(self, origin: Origin) -> ScalarNode:
        copy = ScalarNode.of(self.text, self)
        copy.value, copy.quoted, copy.origin = self.value, self.quoted, origin
        return copy


class SequenceNode(YamlNode):
    __slots__ = ("items",)

    items: list[YamlNode]

    @classmethod
    def of(cls, items: list[YamlNode], at: TextSpan) -> SequenceNode:
        """Return a list with the place of ``at``."""
        sequence = cls(at.line, at.column, at.end_line, at.end_column)
        sequence.items = items
        sequence.origin = at.origin
        return sequence

    def plain(self) -> list[Any]:
        return [item.plain() for item in self.items]

    def copied(self, origin: Origin) -> SequenceNode:
        copy = SequenceNode.of([item.copied(origin) for item in self.items], self)
        self._moved(copy, origin)
        return copy


class MappingNode(YamlNode):
    """``entries`` maps the text of each key to the key itself and its value, in document order."""

    __slots__ = ("entries",)

    entries: dict[str, tuple[ScalarNode, YamlNode]]

    @classmethod
    def of(cls, entries: dict[str, tuple[ScalarNode, YamlNode]], at: TextSpan) -> MappingNode:
        """Return a mapping with the place of ``at``."""
        mapping = cls(at.line, at.column, at.end_line, at.end_column)
        mapping.entries = entries
        mapping.origin = at.origin
        return mapping

    def get(self, name: str) -> YamlNode | None:
        """Return the value of a key, None if there is no such key."""
        entry = self.entries.get(name)
        return None if entry is None else entry[1]

    def plain(self) -> dict[str, Any]:
        return {name: value.plain() for name, (_, value) in self.entries.items()}

    def copied(self, origin: Origin) -> MappingNode:
        entries = {
            name: (key.copied(origin), value.copied(origin)) for name, (key, value) in self.entries.items()
        }
        copy = MappingNode.of(entries, self)
        self._moved(copy, origin)
        return copy


def as_written(value: YamlNode) -> Any:
    """Return a value like `YamlNode.plain`, but numbers and flags as scalars, which know their notation."""
    if isinstance(value, MappingNode):
        return {name: as_written(item) for name, (_, item) in value.entries.items()}
    if isinstance(value, SequenceNode):
        return [as_written(item) for item in value.items]
    assert isinstance(value, ScalarNode)
    return value if isinstance(value.value, bool | int | float) else value.value


def texts_of(value: YamlNode) -> Any:
    """Return a value like `YamlNode.plain`, but numbers and flags as the texts in the file."""
    if isinstance(value, MappingNode):
        return {name: texts_of(item) for name, (_, item) in value.entries.items()}
    if isinstance(value, SequenceNode):
        return [texts_of(item) for item in value.items]
    assert isinstance(value, ScalarNode)
    return None if value.value is None else value.text


def tree_of(value: Any, at: TextSpan) -> YamlNode:
    """Return the tree of plain values, or of what `as_written` returns, at one place."""
    if isinstance(value, YamlNode):
        return value
    if isinstance(value, dict):
        return MappingNode.of(
            {name: (ScalarNode.of(name, at), tree_of(item, at)) for name, item in value.items()}, at
        )
    if isinstance(value, list):
        return SequenceNode.of([tree_of(item, at) for item in value], at)
    texts = {None: "null", True: "true", False: "false"}
    is_word = value is None or isinstance(value, bool)
    scalar = ScalarNode.of(texts[value] if is_word else str(value), at)
    scalar.value = value
    return scalar


def is_utf8(text: str) -> bool:
    """Return whether a text can be encoded: a file name or variable in other bytes cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
