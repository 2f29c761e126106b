"""Types of fields that are numbers, with a unit or without: counts, seconds, bytes, durations, rates."""

from __future__ import annotations

import math
import re
from typing import Literal

from dora.dataflow.durations import (
    DURATION,
    MAX_NS,
    RATE,
    duration_hint,
    parse_duration,
    parse_rate,
    rate_hint,
)
from dora.dataflow.yaml.field_types import FieldType, Reader, Schema, report_expected, shape, text_of
from dora.dataflow.yaml.tree import ScalarNode, YamlNode

MAX_SECONDS = 1_000_000_000  # 31 years; beyond, clocks and system calls overflow
MAX_BYTES = 2**62


class IntegerType(FieldType[int]):
    """A whole number from ``minimum`` to ``maximum``, both included."""

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
    """A number of seconds; ``zero`` says what 0 means: an ordinary value, no limit, or an error."""

    def __init__(self, zero: Literal["kept", "unset", "refused"] = "kept") -> None:
        self.zero = zero

    def read(self, value: YamlNode, reader: Reader) -> float | None:
        """Return the seconds, at most `MAX_SECONDS`; None also for a 0 that means no limit."""
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
        """Return the bytes, at most `MAX_BYTES`; None also for 0, which means no limit and is warned of."""
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
        """Return nanoseconds, at most `MAX_NS`; 0 only with ``zero="kept"``."""
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
        """Return the period in nanoseconds, from 1 to `MAX_NS`."""
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
