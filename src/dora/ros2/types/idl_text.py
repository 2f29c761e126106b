"""Read the `.idl` files of ROS 2: the part of OMG IDL 4.2 in which ROS describes its types.

The parser of rosbags takes a tenth of a second for a file, stops at ``#include`` and drops default values.
"""

from __future__ import annotations

import ast
import re
from typing import Final

from dora.ros2.types.definition import (
    DUMMY,
    Constant,
    MessageDefinition,
    MessageField,
    MessageFieldType,
    Value,
)
from dora.ros2.types.errors import DefinitionError

_TOKEN = re.compile(
    r"""
      (?P<skip> \s+ | //[^\n]* | /\*.*?\*/ | ^[ \t]*\#[^\n]* )
    | (?P<string> L? "(?:\\.|[^"\\])*" )
    | (?P<char> L? '(?:\\.|[^'\\])' )
    | (?P<number> (?: 0[xX][0-9a-fA-F]+ | \d+\.\d*(?:[eE][+-]?\d+)? | \.\d+(?:[eE][+-]?\d+)?
                    | \d+[eE][+-]?\d+ | \d+ ) [fFdD]? )
    | (?P<name> (?:::)?[A-Za-z_]\w*(?:::[A-Za-z_]\w*)* )
    | (?P<sign> [-+{}()\[\]<>,;=@] )
    """,
    re.VERBOSE | re.DOTALL | re.MULTILINE | re.ASCII,
)
_BASE: Final[dict[tuple[str, ...], str]] = {
    ("boolean",): "bool",
    ("octet",): "byte",
    ("char",): "char",
    ("float",): "float32",
    ("double",): "float64",
    ("short",): "int16",
    ("long",): "int32",
    ("long", "long"): "int64",
    ("unsigned", "short"): "uint16",
    ("unsigned", "long"): "uint32",
    ("unsigned", "long", "long"): "uint64",
    **{(f"{sign}int{bits}",): f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
_WORDS: Final = {word for words in _BASE for word in words}
# Forms of IDL that no generator for Python of ROS 2 sends.
_NOT_SENT: Final = ("wchar", "any", "fixed", "map", "union", "enum", "bitmask", "bitset", "valuetype")

# A text that is no IDL causes these; the last four, the value of a default.
_FAULTS: Final = (
    ValueError,
    IndexError,
    SyntaxError,
    TypeError,
    OverflowError,
    MemoryError,
    RecursionError,
)


def read_idl(text: str, file: str) -> list[MessageDefinition]:
    """Return all structs of an IDL text, with their constants; ``file`` is for errors.

    Raises `DefinitionError`.
    """
    try:
        return _IdlReader(text).read()
    except _FAULTS as error:
        raise DefinitionError(f"{file} cannot be read: {error}") from None


class _IdlReader:
    def __init__(self, text: str) -> None:
        self.tokens: list[tuple[str, str, int]] = []
        at, line = 0, 1
        while at < len(text):
            found = _TOKEN.match(text, at)
            if found is None:
                raise ValueError(f"line {line}: {text[at]!r} is not expected")
            if found.lastgroup and found.lastgroup != "skip":
                self.tokens.append((found.lastgroup, found[0].strip(), line))
            line += found[0].count("\n")
            at = found.end()
        self.tokens.append(("end", "the end", line))
        self.at = 0
        self.aliases: dict[str, MessageFieldType] = {}
        self.values: dict[str, Value] = {}
        self.constants: dict[str, list[Constant]] = {}
        self.structs: list[tuple[str, list[MessageField]]] = []

    def read(self) -> list[MessageDefinition]:
        while self.tokens[self.at][0] != "end":
            self.definition(())
        return [
            MessageDefinition(
                name.replace("::", "/"),
                tuple(field for field in fields if field.name != DUMMY),
                tuple(self.constants.get(f"{name}_Constants", ())),
            )
            for name, fields in self.structs
        ]

    # Tokens.

    def fail(self, expected: str) -> ValueError:
        _, token, line = self.tokens[self.at]
        return ValueError(f"line {line}: expected {expected}, got {token!r}")

    def peek(self) -> str:
        return self.tokens[self.at][1]

    def take(self, sign: str) -> bool:
        kind, token, _ = self.tokens[self.at]
        if token != sign or kind in ("string", "char"):
            return False
        self.at += 1
        return True

    def need(self, sign: str) -> None:
        if not self.take(sign):
            raise self.fail(repr(sign))

    def word(self) -> str:
        kind, token, _ = self.tokens[self.at]
        if kind != "name":
            raise self.fail("a name")
        self.at += 1
        return token

    # Grammar.

    def definition(self, scope: tuple[str, ...]) -> None:
        self.annotations()
        word = self.word()
        if word == "module":
            inner = (*scope, self.word())
            self.need("{")
            while not self.take("}"):
                self.definition(inner)
        elif word == "struct":
            self.struct(scope)
        elif word == "const":
            self.constant(scope)
        elif word == "typedef":
            kind = self.type(scope)
            for name, of_name in self.declarators(kind, scope):
                self.aliases["::".join((*scope, name))] = of_name
        else:
            self.at -= 1
            raise self.fail("a module, struct, const or typedef")
        self.need(";")

    def struct(self, scope: tuple[str, ...]) -> None:
        name = "::".join((*scope, self.word()))
        self.need("{")
        fields: list[MessageField] = []
        while not self.take("}"):
            default = self.annotations()
            kind = self.type(scope)
            fields += [
                MessageField(member, of_member, _default(default, of_member))
                for member, of_member in self.declarators(kind, scope)
            ]
            self.need(";")
        self.structs.append((name, fields))

    def constant(self, scope: tuple[str, ...]) -> None:
        kind = self.type(scope)
        name = self.word()
        self.need("=")
        value = _fitting(self.value(scope), kind)
        self.values["::".join((*scope, name))] = value
        self.constants.setdefault("::".join(scope), []).append(
            Constant(name, "uint8" if kind.kind == "char" else kind.kind, value)
        )

    def declarators(
        self, kind: MessageFieldType, scope: tuple[str, ...]
    ) -> list[tuple[str, MessageFieldType]]:
        found = []
        while True:
            name, of_name = self.word(), kind
            while self.take("["):
                if of_name.shape != "one":
                    raise self.fail("one dimension: ROS has no arrays of arrays")
                of_name = of_name._replace(shape="array", size=self.size(scope))
                self.need("]")
            found.append((name, of_name))
            if not self.take(","):
                return found

    def size(self, scope: tuple[str, ...]) -> int:
        value = self.value(scope)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self.fail("a size of at least 1")
        return value

    def type(self, scope: tuple[str, ...]) -> MessageFieldType:
        word = self.word()
        if word == "sequence":
            self.need("<")
            inner = self.type(scope)
            if inner.shape != "one":
                raise self.fail("a sequence of single values: ROS has no sequences of sequences")
            size = self.size(scope) if self.take(",") else 0
            self.need(">")
            return inner._replace(shape="sequence", size=size)
        if word in ("string", "wstring"):
            bound = 0
            if self.take("<"):
                bound = self.size(scope)
                self.need(">")
            return MessageFieldType(word, bound=bound)
        if word in _NOT_SENT:
            raise ValueError(f"ROS has no messages with the type {word!r} for Python")
        if word not in _WORDS:
            return self.named(word, scope)
        words = [word]
        while self.peek() in ("long", "short", "double") and words[0] in ("unsigned", "long"):
            words.append(self.word())
        kind = _BASE.get(tuple(words))
        if kind is None:
            raise ValueError(f"ROS has no messages with the type {' '.join(words)!r} for Python")
        return MessageFieldType(kind)

    def named(self, word: str, scope: tuple[str, ...]) -> MessageFieldType:
        name = word.removeprefix("::")
        for depth in range(len(scope), -1, -1):
            full = "::".join((*scope[:depth], name))
            if full in self.aliases:
                return self.aliases[full]
        parts = name.split("::")
        return MessageFieldType("message", "/".join((*scope, name) if len(parts) == 1 else parts))

    def annotations(self) -> Value | None:
        """Read annotations, and return the value of ``@default``."""
        default = None
        while self.take("@"):
            name = self.word()
            if not self.take("("):
                continue
            while not self.take(")"):
                if self.tokens[self.at + 1][1] == "=":
                    self.at += 2
                value = (
                    self.word()
                    if self.tokens[self.at][0] == "name" and not self.is_bool()
                    else self.value(())
                )
                if name == "default":
                    default = value
                self.take(",")
        return default

    def value(self, scope: tuple[str, ...]) -> Value:
        kind, token, _ = self.tokens[self.at]
        if token == "-" or token == "+":
            self.at += 1
            value = self.value(scope)
            if isinstance(value, str):
                raise self.fail("a number")
            return -value if token == "-" else value
        if kind == "number":
            self.at += 1
            return _number(token)
        if kind == "string":
            pieces = []
            while self.tokens[self.at][0] == "string":
                pieces.append(_string(self.peek()))
                self.at += 1
            return "".join(pieces)
        if kind == "char":
            self.at += 1
            return ord(_string(token))
        word = self.word()
        if word in ("TRUE", "FALSE"):
            return word == "TRUE"
        for depth in range(len(scope), -1, -1):
            full = "::".join((*scope[:depth], word))
            if full in self.values:
                return self.values[full]
        self.at -= 1
        raise self.fail("a value")

    def is_bool(self) -> bool:
        return self.peek() in ("TRUE", "FALSE")


def _number(token: str) -> int | float:
    if token[:2] in ("0x", "0X"):
        return int(token, 16)
    plain = token.rstrip("fFdD")
    if plain.isdigit():
        return int(plain, 8) if len(plain) > 1 and plain.startswith("0") else int(plain)
    return float(plain)


def _string(token: str) -> str:
    inner = token.removeprefix("L")[1:-1]
    return re.sub(r"\\(.)", lambda found: {"n": "\n", "t": "\t", "r": "\r"}.get(found[1], found[1]), inner)


def _fitting(value: Value, kind: MessageFieldType) -> Value:
    """Return a value as its type has it. Raises `ValueError`."""
    from dora.ros2.types.msg_text import read_value

    if kind.kind in ("float32", "float64") and isinstance(value, int):
        return float(value)
    if isinstance(value, str):
        if kind.kind not in ("string", "wstring"):
            raise ValueError(f"{value!r} does not fit into {kind}")
        return value
    return read_value(str(value), kind)


def _default(value: Value | None, kind: MessageFieldType) -> Value | tuple[Value, ...] | None:
    if value is None or kind.kind == "message":
        return None
    if kind.shape == "one":
        return _fitting(value, kind)
    # ROS writes the default of an array as a string: "(1, 2, 3)".
    values = ast.literal_eval(value) if isinstance(value, str) else value
    if not isinstance(values, tuple):
        values = (values,)
    return tuple(_fitting(item, kind) for item in values)
