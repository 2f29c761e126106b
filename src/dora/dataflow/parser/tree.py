"""Parse YAML text into a tree of nodes that remember their place, and write such a tree as YAML.

The tree is built from PyYAML's events, not by its composer: the composer recurses (a hostile file can
exhaust the stack), silently keeps the last of two equal keys, and expands merge keys only when it
constructs Python objects without places.

An unquoted scalar has the meaning of YAML 1.2 (core schema, section 10.3.2), not that of YAML 1.1, which
PyYAML follows: there ``yes``, ``on`` and ``off`` are booleans, ``1:30`` is the number 90 and ``017`` is 15.
Dataflows use such words as ids and in environment variables, so here they stay text.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from dora.dataflow.problems import Origin, ProblemReport, TextSpan

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
    """Return the YAML text of a tree; numbers keep the notation of the file."""
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

MAX_DEPTH = 64
MAX_VALUES = 1_000_000  # with every alias written out; a dataflow of 10,000 nodes has about 200,000

_TAG = "tag:yaml.org,2002:"
_TAGS = {_TAG + name: name for name in ("str", "int", "float", "bool", "null", "map", "seq")}


class YamlNode(TextSpan, ABC):
    """A node of the tree. ``size`` and ``depth`` are those of its subtree, with aliases written out."""

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
    """Return a value like `YamlNode.plain`, but numbers as scalars, which know their notation."""
    if isinstance(value, MappingNode):
        return {name: as_written(item) for name, (_, item) in value.entries.items()}
    if isinstance(value, SequenceNode):
        return [as_written(item) for item in value.items]
    assert isinstance(value, ScalarNode)
    is_number = isinstance(value.value, int | float) and not isinstance(value.value, bool)
    return value if is_number else value.value


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


class _Frame:
    """A collection that is not complete yet."""

    __slots__ = ("anchor", "flow", "items", "key", "mapping", "merges", "start")

    def __init__(self, start: Any, mapping: bool) -> None:
        self.start = start.start_mark
        self.flow = bool(start.flow_style)
        self.anchor: str | None = start.anchor
        self.mapping = mapping
        self.items: list[YamlNode] = []
        self.key: YamlNode | None = None
        self.merges: list[tuple[ScalarNode, YamlNode]] = []


def compose(text: str, report: ProblemReport) -> YamlNode | None:
    """Return the tree of the document; None, with the reason in ``report``, if it is not YAML.

    Duplicate keys, unknown tags and the like are reported and the rest of the tree is still
    returned, so that further problems can be found.
    """
    import yaml  # only processes that read YAML pay for it

    try:
        text.encode()
    except UnicodeEncodeError as error:
        _report_character(text, error.start, report)
        return None
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return _Composer(report).compose(yaml.parse(text, Loader=loader), yaml)
    except yaml.reader.ReaderError as error:
        # The position of the C parser counts bytes, that of the Python parser characters.
        if error.encoding == "unicode":
            position = error.position
        else:
            position = len(text.encode()[: error.position].decode(errors="ignore"))
        _report_character(text, position, report)
        return None
    except yaml.MarkedYAMLError as error:
        _report_syntax(error, report)
        return None


def compose_mapping(
    report: ProblemReport, message: str, hint: str, *, empty: str = ""
) -> MappingNode | None:
    """Return the tree of the report's text; None after reporting ``message`` if it is no mapping.

    ``empty`` is the message for an empty text, by default the same.
    """
    root = compose(report.origin.text, report)
    if isinstance(root, MappingNode):
        return root
    if not report.failed:
        is_empty = root is None or (isinstance(root, ScalarNode) and root.value is None)
        where = TextSpan(0, 0, 0, 1) if root is None or (empty and is_empty) else root
        report.error(where, empty if empty and is_empty else message, hint)
    return None


class _Composer:
    def __init__(self, report: ProblemReport) -> None:
        self.report = report
        self.anchors: dict[str, YamlNode] = {}
        self.frames: list[_Frame] = []
        self.merges: dict[int, list[tuple[ScalarNode, YamlNode]]] = {}

    def compose(self, events: Any, yaml: Any) -> YamlNode | None:
        root: YamlNode | None = None
        documents = 0
        for event in events:
            kind = type(event)
            if kind is yaml.ScalarEvent:
                value: YamlNode | None = self.scalar(event)
                if event.anchor is not None and value is not None:
                    self.anchors[event.anchor] = value
            elif kind is yaml.MappingStartEvent or kind is yaml.SequenceStartEvent:
                self.frames.append(_Frame(event, kind is yaml.MappingStartEvent))
                if len(self.frames) > MAX_DEPTH:
                    self.report.error(_span(event), f"this is nested more than {MAX_DEPTH} levels deep")
                    return None
                continue
            elif kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent:
                value = self.finish(self.frames.pop(), event)
            elif kind is yaml.AliasEvent:
                value = self.alias(event)
            elif kind is yaml.DocumentStartEvent:
                documents += 1
                if documents > 1:
                    self.report.error(
                        _span(event),
                        "a second YAML document starts here; a dataflow is one document",
                        "remove the `---` line, or put the second document in a file of its own",
                    )
                    return root
                continue
            else:
                continue
            if value is None:
                return None
            if self.frames:
                self.attach(self.frames[-1], value)
            else:
                root = value
        return root

    def scalar(self, event: Any) -> ScalarNode | None:
        start, end = event.start_mark, event.end_mark
        scalar = ScalarNode(start.line, start.column, end.line, end.column)
        text = scalar.text = event.value
        scalar.quoted = event.style is not None and event.style != ""
        if "\0" in text or (not text.isascii() and not is_utf8(text)):
            self.report.error(scalar, "this text holds a character that no program can be given")
            return None
        tag = event.tag
        if tag is None or tag == "!":
            scalar.value = text if scalar.quoted or tag == "!" else resolve(text)
            return scalar
        name = _TAGS.get(tag, "")
        value = text if name == "str" else resolve(text)
        fits = {
            "str": True,
            "int": isinstance(value, int) and not isinstance(value, bool),
            "float": isinstance(value, float | int) and not isinstance(value, bool),
            "bool": isinstance(value, bool),
            "null": value is None,
        }
        if name not in fits:
            self.report.error(scalar, f"the tag `{_shown_tag(tag)}` is not supported", "remove the tag")
        elif not fits[name]:
            self.report.error(scalar, f"`{text}` does not fit its tag `{_shown_tag(tag)}`")
        scalar.value = value
        return scalar

    def alias(self, event: Any) -> YamlNode | None:
        name = event.anchor
        if name in self.anchors:
            return self.anchors[name]
        if any(frame.anchor == name for frame in self.frames):
            self.report.error(_span(event), f"the alias `*{name}` refers to a value that contains it")
        else:
            self.report.error(
                _span(event),
                f"the alias `*{name}` refers to an anchor that does not exist before it",
                self.report.did_you_mean(name, self.anchors) or f"define it with `&{name}`",
            )
        return None

    def attach(self, frame: _Frame, value: YamlNode) -> None:
        if not frame.mapping or frame.key is None:
            if frame.mapping:
                frame.key = value
            else:
                frame.items.append(value)
            return
        key, frame.key = frame.key, None
        if isinstance(value, ScalarNode) and value.value is None and not value.text:
            # The value is empty, so problems point at its key.
            empty = ScalarNode.of("", key)
            empty.value, empty.quoted = value.value, value.quoted
            value = empty
        if isinstance(key, ScalarNode) and key.text == "<<" and not key.quoted:
            frame.merges.append((key, value))
        else:
            frame.items += (key, value)

    def finish(self, frame: _Frame, end_event: Any) -> YamlNode | None:
        start, end = frame.start, end_event.end_mark
        value: SequenceNode | MappingNode
        if frame.mapping:
            value = MappingNode(start.line, start.column, end.line, end.column)
            value.entries = self.entries(frame)
            children = [child for _, child in value.entries.values()]
            if not frame.flow and frame.items:
                _point_at(value, frame.items[0])
        else:
            value = SequenceNode(start.line, start.column, end.line, end.column)
            children = value.items = frame.items
            if not frame.flow and frame.items:
                value.end_line, value.end_column = start.line, start.column + 1
        for child in children:
            value.size += child.size
            value.depth = max(value.depth, child.depth + 1)
        if value.size > MAX_VALUES or value.depth > MAX_DEPTH:
            self.report.error(value, "with all its aliases written out, this grows too large")
            return None
        if frame.anchor is not None:
            self.anchors[frame.anchor] = value
        return value

    def entries(self, frame: _Frame) -> dict[str, tuple[ScalarNode, YamlNode]]:
        entries: dict[str, tuple[ScalarNode, YamlNode]] = {}
        pairs = iter(frame.items)
        for key in pairs:
            value = next(pairs)
            if not isinstance(key, ScalarNode):
                self.report.error(key, "a key has to be a single word or text")
            elif key.text in entries:
                first, kept = entries[key.text]
                # Published files repeat a line here and there; that is harmless as long as they agree.
                report = self.report.warn if kept.plain() == value.plain() else self.report.error
                report(
                    key,
                    f"the key `{key.text}` is there twice; the first one is on line {first.line + 1}",
                    "remove one of them",
                )
            else:
                entries[key.text] = (key, value)
        for key, merged in frame.merges:
            for mapping in merged.items if isinstance(merged, SequenceNode) else [merged]:
                if isinstance(mapping, MappingNode):
                    for name, entry in mapping.entries.items():
                        entries.setdefault(name, entry)
                else:
                    self.report.error(
                        key,
                        "`<<` merges mappings only",
                        "write `<<: *anchor`, where `&anchor` is a mapping",
                    )
        return entries


def _point_at(value: YamlNode, first: YamlNode) -> None:
    value.line, value.column = first.line, first.column
    value.end_line, value.end_column = first.end_line, first.end_column


def _span(event: Any) -> TextSpan:
    start, end = event.start_mark, event.end_mark
    return TextSpan(start.line, start.column, end.line, max(end.column, start.column + 1))


def is_utf8(text: str) -> bool:
    """Return whether a text can be encoded: a file name or variable in other bytes cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown_tag(tag: str) -> str:
    return "!!" + tag.removeprefix(_TAG) if tag.startswith(_TAG) else tag


def _report_character(text: str, position: int, report: ProblemReport) -> None:
    line = len(text[:position].splitlines()) - 1 if position else 0
    before = text[:position]
    if before.endswith(("\n", "\r")):
        line += 1
    column = position - max(before.rfind("\n"), before.rfind("\r")) - 1
    code = f"U+{ord(text[position]):04X}" if position < len(text) else "an unknown character"
    report.error(
        TextSpan(line, column, line, column + 1),
        f"the file holds a control character ({code}), which YAML does not allow",
        'remove it, or write it as an escape inside double quotes, like "\\x1b"',
    )


# Words of the messages of PyYAML's two parsers → a plain message, how to fix it, and whether it points at
# the start of the construct instead of where the parser gave up. The first match counts.
_SYNTAX: tuple[tuple[str, str, str, bool], ...] = (
    ("found a tab character", "a tab is used for indentation", "YAML indents with spaces only", False),
    ("mapping values are not allowed", "a `:` is not expected here", "", False),
    ("could not find expected ':'", "a `:` is missing after this key", "a space follows it", True),
    ("unexpected end of stream", "this quoted text is never closed", "add the closing quote", True),
    ("',' or ']'", "this list is never closed, or a `,` is missing in it", "close it with `]`", True),
    ("',' or '}'", "this mapping is never closed, or a `,` is missing in it", "close it with `}`", True),
    ("unknown escape character", "this escape is unknown inside double quotes", "", False),
    ("alphabetic or numeric character", "a name is missing after `*` or `&`", "", True),
    ("tag handle", "this tag is unknown", "put text that starts with `!` in quotes", False),
    ("content", "a value is expected here", "", False),
)
_INDENTATION = (
    "did not find expected key",
    "did not find expected '-' indicator",
    "expected <block end>",
)


def _report_syntax(error: Any, report: ProblemReport) -> None:
    """Report a syntax error in plain words."""
    mark = error.problem_mark or error.context_mark
    start = error.context_mark or mark
    line, column = (mark.line, mark.column) if mark is not None else (0, 0)
    source = report.source(line)
    rest = source[column:]
    problem = error.problem or ""
    message, hint, at_start = f"this is not valid YAML: {problem}", "", False
    if "content" in problem and not report.source(line) and not report.source(line + 1):
        message, hint = (
            "the file ends here, but a value is expected",
            "complete the value, or close the quote, list or mapping above",
        )
    elif "cannot start any token" in problem:
        if rest.startswith("\t"):
            message, hint = "a tab is used for indentation", "YAML indents with spaces only"
        else:
            message = f"a plain text cannot start with `{rest[:1]}`"
            hint = "put the text in quotes"
    elif any(words in problem for words in _INDENTATION):
        if source[:column].strip():
            message = "this is not expected here, after the end of a value"
            hint = "put the whole value in quotes, or begin a new line"
        else:
            message = "the indentation of this line fits nothing above it"
            hint = "line it up with the keys, or the `-`, of the block it belongs to"
    else:
        for words, plain_message, fix, points_at_start in _SYNTAX:
            if words in problem:
                message, hint, at_start = plain_message, fix, points_at_start
                break
    if at_start and start is not None:
        line, column = start.line, start.column
        rest = report.source(line)[column:]
    if message.startswith("a `:` is not expected"):
        hint = "put a text that holds `: ` in quotes, or check the indentation of this line"
    word = rest.split()[0] if rest.split() and not rest.startswith((" ", "\t")) else rest[:1]
    report.error(TextSpan(line, column, line, column + max(len(word), 1)), message, hint)
