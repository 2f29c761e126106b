"""Durations and rates as texts with a unit: ``50ms``, ``10hz``; their value is in nanoseconds."""

from __future__ import annotations

import re
from typing import Final

MAX_NS: Final = 10**18  # 31 years; beyond, clocks and system calls overflow

_NUMBER: Final = r"([0-9]{1,16})(?:\.([0-9]{1,9}))?"
DURATION: Final = rf"{_NUMBER} ?(us|ms|s|min|h)"
RATE: Final = rf"{_NUMBER} ?([Kk]?)[Hh][Zz]"

_duration = re.compile(DURATION).fullmatch
_rate = re.compile(RATE).fullmatch
_UNITS: Final = {"h": 3600 * 10**9, "min": 60 * 10**9, "s": 10**9, "ms": 10**6, "us": 10**3}


def parse_duration(text: str) -> int | None:
    """Return the nanoseconds that a text means; None for a text that is no duration.

    >>> parse_duration("1.5ms"), parse_duration("2 min"), parse_duration("50")
    (1500000, 120000000000, None)
    """
    match = _duration(text)
    if match is None:
        return None
    return _billionths(match[1], match[2]) * _UNITS[match[3]] // 10**9


def parse_rate(text: str) -> int | None:
    """Return the nanoseconds between two events at a rate; None for a text that is none, 0 for ``0hz``.

    >>> parse_rate("10hz"), parse_rate("0.5 Hz"), parse_rate("1khz"), parse_rate("10")
    (100000000, 2000000000, 1000000, None)
    """
    match = _rate(text)
    if match is None:
        return None
    per_second = _billionths(match[1], match[2]) * (1000 if match[3] else 1)
    return 0 if per_second == 0 else round(10**18 / per_second)


def _billionths(integer: str, decimals: str | None) -> int:
    return int(integer) * 10**9 + int((decimals or "").ljust(9, "0"))


def duration_text(nanoseconds: int) -> str:
    """Return a duration exactly, in the largest unit that needs at most three decimals.

    >>> duration_text(50_000_000), duration_text(1_500_000), duration_text(90 * 10**9), duration_text(0)
    ('50ms', '1.5ms', '90s', '0s')
    """
    for name, factor in _UNITS.items():
        decimals = 1 if factor > 10**9 else 1000
        if factor == 1000 or (nanoseconds >= factor and nanoseconds * decimals % factor == 0):
            digits = f"{nanoseconds // factor}.{nanoseconds % factor * 1000 // factor:03}"
            return f"{digits.rstrip('0').rstrip('.')}{name}" if nanoseconds else "0s"
    raise AssertionError  # microseconds with three decimals hold any


def rate_text(period_ns: int) -> str:
    """Return the rate with this period.

    >>> rate_text(100_000_000), rate_text(33_333_333), rate_text(2 * 10**9)
    ('10hz', '30hz', '0.5hz')
    """
    return f"{1e9 / period_ns:.6g}hz"


_quantity = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?) ?([A-Za-zµμ]{0,12})").fullmatch
_fraction = re.compile(r"0\.[0-9]{0,9}[1-9][0-9]{0,9}").fullmatch  # of a second, most likely
_OTHER_SPELLINGS: Final = {
    "ms": ("", "ms", "msec", "msecs", "millis"),
    "us": ("us", "µs", "μs", "usec", "usecs", "micros"),
    "s": ("s", "sec", "secs", "second", "seconds"),
    "min": ("m", "min", "mins", "minute", "minutes"),
    "h": ("h", "hour", "hours"),
}


def duration_hint(text: str) -> str:
    """Return how to write as a duration what a text may mean.

    >>> duration_hint("50"), duration_hint("20hz"), duration_hint("0.25")
    ('write `50ms`', 'write the time from one to the next: `50ms`', 'for this many seconds, write `250ms`')
    """
    if period := parse_rate(text):
        return f"write the time from one to the next: `{duration_text(period)}`"
    if _fraction(text):
        return f"for this many seconds, write `{float(text) * 1000:g}ms`"
    if match := _quantity(text):
        for unit, spellings in _OTHER_SPELLINGS.items():
            if match[2].lower() in spellings:
                return f"write `{match[1]}{unit}`"
    return "its unit is one of us, ms, s, min and h"


def rate_hint(text: str) -> str:
    """Return how to write as a rate what a text may mean.

    >>> rate_hint("10"), rate_hint("100ms"), rate_hint("often")
    ('write `10hz`', 'write how many in a second: `10hz`', 'its unit is hz or khz')
    """
    if period := parse_duration(text):
        return f"write how many in a second: `{rate_text(period)}`"
    if (match := _quantity(text)) and not match[2]:
        return f"write `{match[1]}hz`"
    return "its unit is hz or khz"
