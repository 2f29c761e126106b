"""Types of fields: how each is read from YAML, and its JSON schema.

One class has both, so the parser and the schema for editors always agree. ``read`` returns the checked
value, or None if it has reported an error.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, Literal, TypeVar

from dora.dataflow.durations import (
    DURATION,
    MAX_NS,
    RATE,
    duration_hint,
    parse_duration,
    parse_rate,
    rate_hint,
)
from dora.dataflow.names import (
    DATA_ID,
    NODE_ID,
    data_id_fault,
    node_id_fault,
)
from dora.dataflow.parser.tree import MappingNode, ScalarNode, SequenceNode, YamlNode
from dora.dataflow.problems import ProblemReport, listed

T = TypeVar("T")
Schema = dict[str, Any]

MAX_SECONDS = 1_000_000_000  # 31 years; beyond, clocks and system calls overflow
MAX_BYTES = 2**62


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
    return text if len(text) <= 60 else text[:57] + "..."


def report_expected(value: YamlNode, reader: Reader, wanted: str, hint: str = "") -> None:
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
        text = text_of(value)
        if text is None:
            report_expected(value, reader, self.wanted)
        elif not self.may_be_empty and not text.strip():
            reader.report.error(value, f"expected {self.wanted}, found an empty text")
            return None
        return text

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


class IntegerType(FieldType[int]):
    def __init__(self, minimum: int, maximum: int) -> None:
        self.minimum = minimum
        self.maximum = maximum

    def read(self, value: YamlNode, reader: Reader) -> int | None:
        number = _number(value, reader, "a whole number")
        if number is None:
            return None
        if isinstance(number, float):
            report_expected(value, reader, "a whole number")
            return None
        if not self.minimum <= number <= self.maximum:
            wanted = f"a whole number from {self.minimum} to {self.maximum}"
            if self.minimum == self.maximum:
                wanted = str(self.minimum)
            reader.report.error(value, f"expected {wanted}, found {shape(value)}")
            return None
        return number

    def schema(self) -> Schema:
        return {"type": "integer", "minimum": self.minimum, "maximum": self.maximum}


class SecondsType(FieldType[float]):
    """A number of seconds; a zero may be a number as others, mean that there is no limit, or be refused."""

    def __init__(self, zero: Literal["kept", "unset", "refused"] = "kept") -> None:
        self.zero = zero

    def read(self, value: YamlNode, reader: Reader) -> float | None:
        number = _number(value, reader, "a number of seconds")
        if number is None:
            return None
        allowed = self.zero != "refused"
        fits = math.isfinite(number) and 0 <= number <= MAX_SECONDS and (allowed or number > 0)
        if not fits:
            wanted = "that is not negative" if allowed else "greater than zero"
            at_most = f"expected a number of seconds {wanted} (at most {MAX_SECONDS})"
            reader.report.error(value, f"{at_most}, found {shape(value)}")
            return None
        if number == 0 and self.zero == "unset":
            reader.report.warn(value, "a limit of zero seconds counts as no limit", "leave it out")
            return None
        return float(number)

    def schema(self) -> Schema:
        low = {"exclusiveMinimum": 0} if self.zero == "refused" else {"minimum": 0}
        return {"type": "number", **low, "maximum": MAX_SECONDS}


_duration = re.compile(r"([0-9.]+) *(ms|s|m|h)")


def _number(value: YamlNode, reader: Reader, wanted: str) -> int | float | None:
    if isinstance(value, ScalarNode):
        number = value.value
        if isinstance(number, int | float) and not isinstance(number, bool):
            return number
        if isinstance(number, str):
            report_expected(value, reader, wanted, _number_hint(number, wanted))
            return None
    report_expected(value, reader, wanted)
    return None


def _number_hint(text: str, wanted: str) -> str:
    try:
        float(text)
    except ValueError:
        pass
    else:
        return "remove the quotes"
    match = _duration.fullmatch(text) if "seconds" in wanted and len(text) <= 40 else None
    if match is None:
        return ""
    try:
        seconds = float(match[1]) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600}[match[2]]
    except ValueError:
        return ""
    return f"write the seconds as a number: `{seconds:.12g}`"


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


_BYTES = r" *([0-9]+(\.[0-9]*)?|\.[0-9]+) *([KkMmGg]?([Ii]?[Bb])?) *"
_bytes = re.compile(_BYTES).fullmatch
_FACTORS = {"": 1, "B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def byte_size(text: str) -> float | None:
    """Return the number of bytes that a text means; None for other texts.

    >>> byte_size("1.5 KB"), byte_size("much")
    (1536.0, None)
    """
    match = _bytes(text) if len(text) <= 40 else None
    if match is None:
        return None
    unit = match[3].upper().replace("I", "").removesuffix("B")
    return float(match[1]) * _FACTORS[unit]


class ByteSizeType(FieldType[int]):
    """A number of bytes: ``4096``, ``"64KB"``, ``"1.5 GB"``; the units count in steps of 1024."""

    def read(self, value: YamlNode, reader: Reader) -> int | None:
        text = text_of(value)
        if text is None or not isinstance(value, ScalarNode) or isinstance(value.value, bool):
            report_expected(value, reader, "a size in bytes", 'for example `"50MB"`')
            return None
        number = value.value
        if isinstance(number, str):
            number = byte_size(text)
            if number is None:
                hint = 'write a number with B, KB, MB or GB, for example `"50MB"`'
                report_expected(value, reader, "a size in bytes", hint)
                return None
        if number == 0:
            reader.report.warn(value, "a limit of zero bytes counts as no limit", "leave it out")
            return None
        if not isinstance(number, int | float) or not 1 <= number <= MAX_BYTES:
            reader.report.error(value, f"expected a size of at least one byte, found {shape(value)}")
            return None
        return int(number)

    def schema(self) -> Schema:
        return {
            "anyOf": [
                {"type": "number", "minimum": 1, "maximum": MAX_BYTES},
                {"const": 0},
                {"type": "string", "pattern": f"^{_BYTES}$"},
            ]
        }


class DurationType(FieldType[int]):
    """A duration with its unit: ``50ms``; the value is in nanoseconds. A zero needs no unit."""

    def __init__(self, zero: Literal["kept", "refused"] = "refused") -> None:
        self.zero = zero

    def read(self, value: YamlNode, reader: Reader) -> int | None:
        text = text_of(value)
        duration = None if text is None else 0 if text == "0" else parse_duration(text)
        if duration is None:
            report_expected(
                value, reader, "a duration with its unit, such as `50ms`", duration_hint(text or "")
            )
        elif not (0 < duration <= MAX_NS or (duration == 0 and self.zero == "kept")):
            limits = "longer than zero and at most 31 years" if duration == 0 else "of at most 31 years"
            reader.report.error(value, f"expected a duration {limits}, found {shape(value)}")
        else:
            return duration
        return None

    def schema(self) -> Schema:
        if self.zero == "refused":
            return {"type": "string", "pattern": f"^(?=.*[1-9]){DURATION}$"}
        return {"anyOf": [{"type": "string", "pattern": f"^{DURATION}$"}, {"const": 0}]}


class RateType(FieldType[int]):
    """A rate with its unit: ``10hz``; the value is the time from one to the next, in nanoseconds."""

    def read(self, value: YamlNode, reader: Reader) -> int | None:
        text = text_of(value)
        period = None if text is None else parse_rate(text)
        if period is None:
            report_expected(value, reader, "a rate with its unit, such as `10hz`", rate_hint(text or ""))
        elif not 0 < period <= MAX_NS:
            fast = "above zero and at most 1000000khz"
            wanted = fast if period == 0 else "of at least once in 31 years"
            reader.report.error(value, f"expected a rate {wanted}, found {shape(value)}")
        else:
            return period
        return None

    def schema(self) -> Schema:
        return {"type": "string", "pattern": f"^(?=.*[1-9]){RATE}$"}


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

    def __init__(self, item: FieldType[T], of: str) -> None:
        self.item = item
        self.of = of

    def read(self, value: YamlNode, reader: Reader) -> tuple[T, ...] | None:
        if not isinstance(value, SequenceNode):
            text = text_of(value)
            hint = f"write `[{text}]`" if text is not None and len(text) < 40 else ""
            report_expected(value, reader, f"a list of {self.of}", hint)
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
        return None if failed else tuple(items)

    def schema(self) -> Schema:
        return {"type": "array", "items": self.item.schema()}


class MapType(FieldType[dict[str, T]]):
    """A mapping from the ids of inputs or outputs to values of one kind."""

    def __init__(self, item: FieldType[T], of: str) -> None:
        self.item = item
        self.of = of

    def read(self, value: YamlNode, reader: Reader) -> dict[str, T] | None:
        if not isinstance(value, MappingNode):
            report_expected(value, reader, f"a mapping of {self.of}")
            return None
        items: dict[str, T] = {}
        failed = False
        for name, (key, item) in value.entries.items():
            named = DATA.read(as_text(key), reader)
            found = self.item.read(item, reader)
            if named is None or found is None:
                failed = True
            else:
                items[name] = found
        return None if failed else items

    def schema(self) -> Schema:
        return {
            "type": "object",
            "propertyNames": {"pattern": f"^{DATA_ID}$"},
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
