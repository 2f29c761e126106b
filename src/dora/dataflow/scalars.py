"""What an unquoted YAML scalar means: the core schema of YAML 1.2 (section 10.3.2).

PyYAML follows YAML 1.1, where ``yes``, ``on`` and ``off`` are booleans, ``1:30`` is the number 90
and ``017`` is 15. Dataflows use words like these as ids and in environment variables, so here they
stay text, as every YAML 1.2 parser reads them.
"""

from __future__ import annotations

import re

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

    An integer that needs more than 64 bits becomes a float, because nothing that a value is handed
    to (msgpack, Arrow) could carry it.

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
