"""Types of fields: how each is read from YAML, and its JSON schema.

One class has both, so the parser and the schema for editors always agree. ``read`` returns the checked
value, or None if it has reported an error.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from dora.dataflow.names import (
    DATA_ID,
    NODE_ID,
    data_id_fault,
    node_id_fault,
)
from dora.dataflow.problems import ProblemReport, listed
from dora.dataflow.yaml.tree import MappingNode, ScalarNode, SequenceNode, YamlNode, texts_of

T = TypeVar("T")
Schema = dict[str, Any]


class Reader:
    """The context of reading a value: where problems go, and the environment."""

    def __init__(self, report: ProblemReport, environ: Mapping[str, str]) -> None:
        self.report = report
        self.environ = environ


class FieldType(ABC, Generic[T]):
    """The type of a field."""

    @abstractmethod
    def read(self, value: YamlNode, reader: Reader) -> T | None:
        """Return the checked value; None after reporting a problem."""

    def stored(self, value: YamlNode) -> Any:
        """Return a value that `read` accepts as the document of a dataflow keeps it.

        Plain values, but a text is a text there whatever it looks like: the id ``007`` stays ``"007"``.
        """
        return value.plain()

    @abstractmethod
    def schema(self) -> Schema:
        """Return the JSON schema of what `read` accepts."""


def shape(value: YamlNode) -> str:
    """Return what a value is, for a sentence."""
    if isinstance(value, SequenceNode):
        return "a list"
    if isinstance(value, MappingNode):
        return "a mapping"
    assert isinstance(value, ScalarNode)
    if value.value is None:
        return "nothing"
    if isinstance(value.value, bool):
        return f"`{value.text}`"
    return (
        f"the text `{shorten(value.text)}`" if isinstance(value.value, str) else f"`{shorten(value.text)}`"
    )


def shorten(text: str) -> str:
    """Return a text for a message: after 57 characters of a longer one than 60 comes ``...``."""
    return text if len(text) <= 60 else text[:57] + "..."


def report_expected(value: YamlNode, reader: Reader, wanted: str, hint: str = "") -> None:
    """Report as an error that a value is something else than ``wanted``."""
    reader.report.error(value, f"expected {wanted}, found {shape(value)}", hint)


def text_of(value: YamlNode) -> str | None:
    """Return a scalar as text. Numbers and booleans count as the text that they are written with."""
    if isinstance(value, ScalarNode) and value.value is not None:
        return value.text
    return None


TEXT_SCHEMA: Schema = {"type": ["string", "number", "boolean"]}


class TextType(FieldType[str]):
    """A text; ``wanted`` names it in messages."""

    def __init__(self, wanted: str = "a text", may_be_empty: bool = True) -> None:
        self.wanted = wanted
        self.may_be_empty = may_be_empty

    def read(self, value: YamlNode, reader: Reader) -> str | None:
        """Return the text; numbers and booleans count as the text that they are written with."""
        text = text_of(value)
        if text is None:
            report_expected(value, reader, self.wanted)
        elif not self.may_be_empty and not text.strip():
            reader.report.error(value, f"expected {self.wanted}, found an empty text")
            return None
        return text

    def stored(self, value: YamlNode) -> Any:
        return texts_of(value)

    def schema(self) -> Schema:
        return dict(TEXT_SCHEMA) if self.may_be_empty else {**TEXT_SCHEMA, "pattern": r"\S"}


class RuledTextType(TextType):
    """A text that a rule accepts: ``fault`` returns a message and a hint for one that it does not."""

    def __init__(self, wanted: str, fault: Callable[[str], tuple[str, str] | None], schema: Schema) -> None:
        super().__init__(wanted, may_be_empty=False)
        self.fault = fault
        self.own_schema = schema

    def read(self, value: YamlNode, reader: Reader) -> str | None:
        text = super().read(value, reader)
        if text is None or (fault := self.fault(text)) is None:
            return text
        reader.report.error(value, *fault)
        return None

    def schema(self) -> Schema:
        return dict(self.own_schema)


class IdentifierType(FieldType[str]):
    """The id of a node or operator, or of an input or output."""

    def __init__(self, of: str, fault: Callable[[str], str], pattern: str) -> None:
        self.of = of
        self.fault = fault
        self.pattern = pattern

    def read(self, value: YamlNode, reader: Reader) -> str | None:
        text = text_of(value)
        if text is None:
            report_expected(value, reader, f"the id of {self.of}", _without_colon(value))
            return None
        if fault := self.fault(text):
            reader.report.error(value, f"the id `{shorten(text)}` {fault}", _tidied(text, self.fault))
            return None
        return text

    def stored(self, value: YamlNode) -> Any:
        return texts_of(value)

    def schema(self) -> Schema:
        schema = {**TEXT_SCHEMA, "pattern": f"^{self.pattern}$"}
        return schema if self.fault is data_id_fault else {**schema, "not": {"const": "dora"}}


def _without_colon(value: YamlNode) -> str:
    if isinstance(value, MappingNode) and len(value.entries) == 1:
        return f"write `{shorten(next(iter(value.entries)))}`, without a colon"
    return ""


def _tidied(text: str, fault: Callable[[str], str]) -> str:
    other = r"[^A-Za-z0-9_./-]+" if fault is data_id_fault else r"[^A-Za-z0-9_.-]+"
    tidy = re.sub(other, "_", text).strip("/._")
    return f"for example `{tidy}`" if tidy and not fault(tidy) else "choose another id"


class FlagType(FieldType[bool]):
    """``true`` or ``false``; other words for them are refused, with a hint."""

    def read(self, value: YamlNode, reader: Reader) -> bool | None:
        if isinstance(value, ScalarNode) and isinstance(value.value, bool):
            return value.value
        report_expected(value, reader, "`true` or `false`", flag_hint(value))
        return None

    def schema(self) -> Schema:
        return {"type": "boolean"}


def flag_hint(value: YamlNode) -> str:
    """Return how to write a word such as ``no`` as a flag; "" for other values."""
    word = value.text.lower() if isinstance(value, ScalarNode) else ""
    if word in ("true", "yes", "on", "y", "1"):
        return "write `true`"
    return "write `false`" if word in ("false", "no", "off", "n", "0") else ""


class ChoiceType(FieldType[str]):
    """One of a few words. With ``strict=False`` another word counts as refused, but is no error."""

    def __init__(self, words: Sequence[str], ignore_case: bool = False, strict: bool = True) -> None:
        self.words = tuple(words)
        self.ignore_case = ignore_case
        self.strict = strict

    def read(self, value: YamlNode, reader: Reader) -> str | None:
        text = text_of(value)
        if text is None:
            report_expected(value, reader, f"one of {listed(self.words)}")
            return None
        word = text.lower() if self.ignore_case else text
        if word in self.words:
            return word
        if self.strict:
            hint = reader.report.did_you_mean(text, self.words)
            reader.report.error(value, f"`{shorten(text)}` is not one of {listed(self.words)}", hint)
        return None

    def schema(self) -> Schema:
        if not self.strict:
            return {"anyOf": [{"enum": list(self.words)}, dict(TEXT_SCHEMA)]}
        if not self.ignore_case:
            return {"enum": list(self.words)}
        letters = ("".join(f"[{c.upper()}{c}]" for c in word) for word in self.words)
        any_case = {"type": "string", "pattern": f"^({'|'.join(letters)})$"}
        return {"anyOf": [{"enum": list(self.words)}, any_case]}


class WordsType(FieldType[tuple[str, ...]]):
    """Command-line arguments: a text that is split as a shell does, or a list taken as it is."""

    def read(self, value: YamlNode, reader: Reader) -> tuple[str, ...] | None:
        if isinstance(value, SequenceNode):
            words = [text_of(item) for item in value.items]
            for item, word in zip(value.items, words, strict=True):
                if word is None:
                    report_expected(item, reader, "an argument")
            return None if None in words else tuple(word for word in words if word is not None)
        text = text_of(value)
        if text is None:
            report_expected(value, reader, "the arguments as a text or a list")
            return None
        return split_words(text, value, reader)

    def stored(self, value: YamlNode) -> Any:
        return texts_of(value)

    def schema(self) -> Schema:
        return {"anyOf": [dict(TEXT_SCHEMA), {"type": "array", "items": dict(TEXT_SCHEMA)}]}


def split_words(text: str, value: YamlNode, reader: Reader) -> tuple[str, ...] | None:
    """Split a command line as a POSIX shell does, without expanding anything."""
    if not any(c in text for c in "'\"\\"):
        return tuple(text.split())
    import shlex

    try:
        return tuple(shlex.split(text))
    except ValueError:
        reader.report.error(
            value, f"a quote or backslash in `{shorten(text)}` is not closed", "close it, or write a list"
        )
        return None


class CommandsType(FieldType[tuple[str, ...]]):
    """Commands, one a line (or one an item of a list); kept as text, checked for closed quotes."""

    def read(self, value: YamlNode, reader: Reader) -> tuple[str, ...] | None:
        """Return the commands without empty lines. Warns where a command would need a shell."""
        texts: list[str] = []
        for item in value.items if isinstance(value, SequenceNode) else [value]:
            text = text_of(item)
            if text is None:
                report_expected(item, reader, "a command")
                return None
            texts += text.splitlines()
        commands = tuple(line.strip() for line in texts if line.strip())
        checked = [split_words(command, value, reader) for command in commands]
        for words in checked:
            _warn_of_shell(words or (), value, reader)
        return None if None in checked else commands

    def stored(self, value: YamlNode) -> Any:
        return texts_of(value)

    def schema(self) -> Schema:
        return {"anyOf": [dict(TEXT_SCHEMA), {"type": "array", "items": dict(TEXT_SCHEMA)}]}


def _warn_of_shell(words: Sequence[str], value: YamlNode, reader: Reader) -> None:
    """Warn of what a shell would understand, and the program only gets as an argument."""
    for word in words:
        if word in ("&&", ";"):
            hint = "write each command on a line of its own"
        elif word in ("||", "|", ">", ">>", "<", "&"):
            hint = "write `sh -c '...'` around the command"
        else:
            continue
        reader.report.warn(value, f"`{word}` means nothing here: commands run without a shell", hint, word)
        return


class ListType(FieldType[tuple[T, ...]]):
    """A list; equal items are merged, with a warning."""

    def __init__(self, item: FieldType[T], of: str, hint: str = "", *, keeps_rest: bool = False) -> None:
        """``hint``: how to write such a list, by default with the one text that is there.
        ``keeps_rest``: an item that cannot be used is left out, so that the others are still checked."""
        self.item = item
        self.of = of
        self.hint = hint
        self.keeps_rest = keeps_rest

    def read(self, value: YamlNode, reader: Reader) -> tuple[T, ...] | None:
        """Return the items; None if any of them has a problem, unless the rest is kept."""
        if not isinstance(value, SequenceNode):
            text = text_of(value)
            write_list = f"write `[{text}]`" if text is not None and len(text) < 40 else ""
            report_expected(value, reader, f"a list of {self.of}", self.hint or write_list)
            return None
        items: dict[T, None] = {}  # a block is equal to itself only
        failed = False
        for item in value.items:
            found = self.item.read(item, reader)
            if found is None:
                failed = True
            elif found in items:
                reader.report.warn(item, f"`{found}` is listed twice")
            else:
                items[found] = None
        return tuple(items) if self.keeps_rest or not failed else None

    def stored(self, value: YamlNode) -> Any:
        if not isinstance(value, SequenceNode):
            return value.plain()
        return [self.item.stored(item) for item in value.items]

    def schema(self) -> Schema:
        return {"type": "array", "items": self.item.schema()}


class MapType(FieldType[dict[str, T]]):
    """A mapping from names, by default the ids of inputs or outputs, to values of one kind."""

    def __init__(
        self,
        item: FieldType[T],
        of: str,
        hint: str = "",
        *,
        key: FieldType[str] | None = None,
        keeps_rest: bool = False,
    ) -> None:
        """``hint``: how to write such a mapping. ``keeps_rest``: an entry that cannot be used is left out,
        so that the others are still checked."""
        self.item = item
        self.of = of
        self.hint = hint
        self.key = key or DATA
        self.keeps_rest = keeps_rest

    def read(self, value: YamlNode, reader: Reader) -> dict[str, T] | None:
        """Return the values by name; None if any name or value has a problem, unless the rest is kept."""
        if not isinstance(value, MappingNode):
            report_expected(value, reader, f"a mapping of {self.of}", self.hint)
            return None
        items: dict[str, T] = {}
        for name, (key, item) in value.entries.items():
            named = self.key.read(as_text(key), reader)
            found = self.item.read(item, reader)
            if named is not None and found is not None:
                items[name] = found
        return items if self.keeps_rest or len(items) == len(value.entries) else None

    def stored(self, value: YamlNode) -> Any:
        if not isinstance(value, MappingNode):
            return value.plain()
        return {name: self.item.stored(item) for name, (_, item) in value.entries.items()}

    def schema(self) -> Schema:
        return {
            "type": "object",
            "propertyNames": {"pattern": self.key.schema()["pattern"]},
            "additionalProperties": self.item.schema(),
        }


def as_text(key: ScalarNode) -> ScalarNode:
    """Return a key as a text: ``null`` or ``1`` are names there."""
    return key if isinstance(key.value, str) else ScalarNode.of(key.text, key)


def is_unset(value: YamlNode) -> bool:
    """Return whether a field is empty: null, ``false``, or an empty text, list or mapping."""
    if isinstance(value, ScalarNode):
        return value.value is None or value.value is False or value.value == ""
    if isinstance(value, SequenceNode):
        return not value.items
    return isinstance(value, MappingNode) and not value.entries


class UnsupportedType(FieldType[None]):
    """A known field that this version does not support; refused unless it is empty."""

    def __init__(self, what: str, hint: str = "") -> None:
        self.what = what
        self.hint = hint

    def read(self, value: YamlNode, reader: Reader) -> None:
        if not is_unset(value):
            reader.report.error(value, f"this version of dora does not support {self.what} yet", self.hint)

    def schema(self) -> Schema:
        return {"enum": [None, False, "", [], {}]}


NODE = IdentifierType("a node", node_id_fault, NODE_ID)
OPERATOR = IdentifierType("an operator", node_id_fault, NODE_ID)
DATA = IdentifierType("an input or output", data_id_fault, DATA_ID)
