"""Decoders for bytes from other processes and files: they return or raise `DecodeError`, nothing else.

Those of msgspec raise other exceptions, too: ``UnicodeDecodeError`` for text that is no UTF-8,
``RecursionError`` for values nested too deeply, ``MemoryError`` for wrong lengths. All of dora decodes
msgpack and JSON with these functions, which a test checks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar, overload

import msgspec

DecodeError: Final = msgspec.DecodeError
_Kind = TypeVar("_Kind")
_ESCAPING: Final = (ValueError, RecursionError, OverflowError, MemoryError, TypeError)


def msgpack_decoder(kind: Any = Any) -> Callable[[bytes | memoryview], Any]:
    """Return a decoder of msgpack for a type, which raises `DecodeError` only.

    >>> msgpack_decoder(str)(b"\\xa1\\xff")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    msgspec.DecodeError: ...
    """
    return _strict(lambda: msgspec.msgpack.Decoder(kind).decode)


def json_decoder(kind: Any = Any) -> Callable[[bytes | str], Any]:
    """Return a decoder of JSON for a type, which raises `DecodeError` only."""
    return _strict(lambda: msgspec.json.Decoder(kind).decode)


@overload
def from_json(data: bytes | str) -> Any: ...
@overload
def from_json(data: bytes | str, kind: type[_Kind]) -> _Kind: ...
def from_json(data: bytes | str, kind: Any = Any) -> Any:
    """Return the value of a JSON text; raises `DecodeError`."""
    return json_decoder(kind)(data)


def from_plain(value: Any, kind: type[_Kind]) -> _Kind:
    """Return plain values as a type, as ``msgspec.convert`` does; raises `DecodeError`."""

    def convert(plain: Any) -> Any:
        return msgspec.convert(plain, type=kind)

    converted: _Kind = _strict(lambda: convert)(value)
    return converted


def _strict(make: Callable[[], Callable[[Any], Any]]) -> Callable[[Any], Any]:
    """Return a decoder that is made at the first use: few processes use all of a protocol's decoders."""
    decode: Callable[[Any], Any] | None = None

    def decode_strictly(data: Any) -> Any:
        nonlocal decode
        if decode is None:
            decode = make()
        try:
            return decode(data)
        except DecodeError:  # msgspec's own, and its `ValidationError`
            raise
        except _ESCAPING as error:
            raise DecodeError(str(error) or type(error).__name__) from error

    return decode_strictly
