"""Types of fields with environment variables and parameters."""

from __future__ import annotations

import re
from typing import Any

from dora.dataflow.names import (
    MAX_KEY,
    key_fault,
    value_fault,
)
from dora.dataflow.parser.sources import expand
from dora.dataflow.yaml.field_types import (
    TEXT_SCHEMA,
    FieldType,
    Reader,
    Schema,
    report_expected,
    shorten,
    text_of,
)
from dora.dataflow.yaml.tree import MappingNode, ScalarNode, YamlNode, is_utf8

_RESERVED = frozenset(
    (
        "DORA_NODE_CONFIG",
        "DORA_RUNTIME_CONFIG",
        "DORA_RUN_PARENT_PID",
        "DORA_AUTH_TOKEN",
        "DORA_ALLOW_SHELL_NODES",
        "ZENOH_CONFIG",
        "LD_PRELOAD",
        "LD_AUDIT",
        "LD_LIBRARY_PATH",
    )
)
_RESERVED_PREFIXES = ("DORA_ZENOH_", "DYLD_")


def reserved(name: str) -> bool:
    """Return whether a dataflow may not set this environment variable."""
    return name in _RESERVED or name.startswith(_RESERVED_PREFIXES)


def refused_variable(name: str) -> str:
    """Return why a dataflow may not set an environment variable of this name; "" if it may."""
    if reserved(name):
        return f"the environment variable `{name}` is reserved for dora or the system; it is left out"
    if not name or "=" in name or any(c.isspace() or c == "\0" for c in name):
        return f"`{name}` cannot name an environment variable; it is left out"
    return ""


class EnvironmentType(FieldType[dict[str, str]]):
    """Environment variables. Values may refer to the environment of the process that reads them."""

    def read(self, value: YamlNode, reader: Reader) -> dict[str, str] | None:
        """Return texts by name. A refused name gets a warning, a bad value an error; both are left out."""
        if not isinstance(value, MappingNode):
            report_expected(
                value, reader, "a mapping of names to values", "for example `env: {WIDTH: 640}`"
            )
            return None
        variables: dict[str, str] = {}
        for name, (key, item) in value.entries.items():
            if refusal := refused_variable(name):
                hint = "set it in the shell that starts dora, if you need it" if reserved(name) else ""
                reader.report.warn(key, refusal, hint)
            elif (text := self._value(name, item, reader)) is not None:
                variables[name] = text
        return variables

    def _value(self, name: str, item: YamlNode, reader: Reader) -> str | None:
        if not isinstance(item, ScalarNode) or item.value is None:
            hint = f'for an empty text write `{name}: ""`' if isinstance(item, ScalarNode) else ""
            report_expected(item, reader, f"a text, number or boolean for `{name}`", hint)
            return None
        if isinstance(item.value, bool):
            return "true" if item.value else "false"
        if isinstance(item.value, int) and item.text.startswith("0") and not item.text.isdecimal():
            return str(item.value)  # hexadecimal or octal, which few programs would understand
        text, unset = expand(item.text, reader.environ)
        if not is_utf8(text):
            reader.report.error(
                item,
                f"the value of `{name}` is not UTF-8",
                "an environment variable that it refers to holds other bytes",
            )
            return None
        for missing in unset:
            reader.report.error(
                item,
                f"the environment variable `{missing}` is not set",
                f"set it, or give a default: `${{{missing}:-...}}`; a dollar sign is written `$$`",
                missing,
            )
        return None if unset else text

    def schema(self) -> Schema:
        return {"type": "object", "additionalProperties": dict(TEXT_SCHEMA)}


_parameter = re.compile(r"[A-Za-z0-9_]+").fullmatch


class ParametersType(FieldType[dict[str, str]]):
    """Parameters of a module: texts by names that differ in more than upper and lower case."""

    def read(self, value: YamlNode, reader: Reader) -> dict[str, str] | None:
        """Return texts by name; None if a name or a value has a problem."""
        if not isinstance(value, MappingNode):
            report_expected(value, reader, "a mapping of parameters", "for example `params: {speed: 2.0}`")
            return None
        parameters: dict[str, str] = {}
        taken: dict[str, str] = {}
        for name, (key, item) in value.entries.items():
            text = text_of(item)
            if not _parameter(name):
                hint = "only letters (a-z), digits and `_` are allowed"
                reader.report.error(key, f"`{shorten(name)}` cannot name a parameter", hint)
            elif (other := taken.setdefault(name.upper(), name)) != name:
                reader.report.error(
                    key, f"the parameters `{other}` and `{name}` are both `$PARAM_{name.upper()}`"
                )
            elif text is None:
                report_expected(item, reader, f"a text, number or boolean for `{name}`")
            else:
                parameters[name] = text
        return parameters if len(parameters) == len(value.entries) else None

    def schema(self) -> Schema:
        return {
            "type": "object",
            "propertyNames": {"pattern": "^[A-Za-z0-9_]+$"},
            "additionalProperties": dict(TEXT_SCHEMA),
        }


class ParameterValuesType(FieldType[dict[str, Any]]):
    """Named values of any shape that JSON knows."""

    def read(self, value: YamlNode, reader: Reader) -> dict[str, Any] | None:
        """Return plain values by name; None if a name or a value has a problem."""
        if not isinstance(value, MappingNode):
            report_expected(
                value, reader, "a mapping of parameters", "for example `parameters: {gain: 0.5}`"
            )
            return None
        found: dict[str, Any] = {}
        failed = False
        for name, (key, item) in value.entries.items():
            plain = item.plain()
            if fault := key_fault(name):
                reader.report.error(key, f"the name of a parameter {fault}")
                failed = True
            elif fault := value_fault(plain):
                reader.report.error(item, f"the value of the parameter `{name}` {fault}")
                failed = True
            else:
                found[name] = plain
        return None if failed else found

    def schema(self) -> Schema:
        return {"type": "object", "propertyNames": {"pattern": r"\S", "maxLength": MAX_KEY}}
