"""Parse YAML text into a tree, see `dora.dataflow.yaml.tree`; report in plain words what is no YAML.

The tree is built from PyYAML's events, not by its composer: the composer recurses (a hostile file can
exhaust the stack), silently keeps the last of two equal keys, and expands merge keys only when it
constructs Python objects without places.
"""

from __future__ import annotations

from typing import Any

from dora.dataflow.problems import ProblemReport, TextSpan
from dora.dataflow.yaml.tree import MappingNode, ScalarNode, SequenceNode, YamlNode, is_utf8, resolve

MAX_DEPTH = 64  # levels; the functions that walk through a tree are recursive
MAX_VALUES = 1_000_000  # with every alias written out; a dataflow of 10,000 nodes has about 200,000

_TAG = "tag:yaml.org,2002:"
_TAGS = {_TAG + name: name for name in ("str", "int", "float", "bool", "null", "map", "seq")}


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
        # The C parser counts the position in bytes, the Python parser in characters.
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
