"""A message's metadata: a dictionary with string keys, as msgpack.

Kept with their types: ``None``, ``bool``, ``int`` (-2**63 … 2**63 - 1), ``float``, ``str``, ``bytes``,
aware ``datetime`` (arrives in UTC, microseconds), and lists and dictionaries of these, nested to any
depth. Tuples and sets arrive as lists, naive datetimes are taken as local time, NumPy scalars and
arrays become numbers and lists, enums their values, dataclasses dictionaries; dates, UUIDs and
decimals become text. Anything else is sent as ``str(value)``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from dora.errors import UnsupportedData

_SIMPLE = frozenset((str, int, float, bool, type(None), bytes))
_SUBCLASSED: tuple[type[Any], ...] = (str, float, int, bytes)

_LOWEST, _HIGHEST = -(2**63), 2**63 - 1
_UINT64 = 0xCF  # msgpack's mark of an integer from 2**32 on; other data may contain that byte
_large = re.compile(rb"\xcf[\x80-\xff]").search

_decode = msgspec.msgpack.Decoder(dict[str, Any]).decode


class MetadataError(ValueError):
    """The metadata of a received message cannot be decoded."""


def _as_plain(value: Any) -> Any:
    """Convert a value that msgpack does not support (called by the encoder)."""
    item = getattr(value, "tolist", None)  # NumPy scalars and arrays
    if item is not None:
        return item()
    on_text = _on_text
    if on_text is not None:
        on_text(value)
    return str(value)


_on_text: Callable[[Any], None] | None = None


def on_text(callback: Callable[[Any], None] | None) -> None:
    """Set a callback for each value that had to be converted to text, for example to warn."""
    global _on_text
    _on_text = callback


_encode = msgspec.msgpack.Encoder(enc_hook=_as_plain).encode


def normalise(value: Any) -> Any:
    """Return metadata, or a value of it, as plain Python values; raises `UnsupportedData` for a key."""
    kind = value.__class__
    if kind in _SIMPLE:
        return value
    if isinstance(value, datetime):
        # msgpack's timestamp type is for aware datetimes; a naive one would become a string.
        return value.astimezone(UTC)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise UnsupportedData(
                    f"the keys of metadata are strings, not {type(key).__name__}: {key!r}"
                )
        return {key: normalise(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [normalise(item) for item in value]
    for plain in _SUBCLASSED:  # numpy.str_ and numpy.float64, for example
        if isinstance(value, plain):
            return plain(value)
    return value


def encode_metadata(metadata: Mapping[str, Any]) -> bytes:
    """Return the metadata section.

    Raises `UnsupportedData` for anything but a dictionary, for a key that is no string and for text that is
    no Unicode, ``OverflowError`` for an integer out of range, ``ValueError`` for values that contain
    themselves.
    """
    # Inlined, without calls: this is on the message path.
    try:
        items = metadata.items()
    except AttributeError:
        raise _no_mapping(metadata) from None
    for key, value in items:
        if key.__class__ is not str or (
            value.__class__ not in _SIMPLE and (value.__class__ is not datetime or value.tzinfo is not UTC)
        ):
            return _encode_any(metadata)
    try:
        section = _encode(metadata)
    except (OverflowError, UnicodeEncodeError) as error:
        raise _refusal(error) from None
    if _UINT64 in section:
        _check_integers(section)
    return section


def as_received(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return metadata as a receiver would get it; raises what `encode_metadata` raises."""
    if metadata.__class__ is not dict and not isinstance(metadata, Mapping):
        raise _no_mapping(metadata)
    # Most metadata is flat and needs no conversion.
    for key, value in metadata.items():
        kind = value.__class__
        if (
            key.__class__ is not str
            or (kind not in _SIMPLE and (kind is not datetime or value.tzinfo is not UTC))
            or (kind is int and not _LOWEST <= value <= _HIGHEST)
        ):
            received: dict[str, Any] = _decode(_encode_any(metadata))
            return received
    return dict(metadata)


def _no_mapping(metadata: object) -> UnsupportedData:
    return UnsupportedData(f"metadata is a dictionary, not {type(metadata).__name__}")


def _encode_any(metadata: Mapping[str, Any]) -> bytes:
    try:
        section = _encode(normalise(metadata))
    except RecursionError:
        raise ValueError("the metadata is nested too deeply, or contains itself") from None
    except (OverflowError, UnicodeEncodeError) as error:
        raise _refusal(error) from None
    _check_integers(section)
    return section


def _check_integers(section: bytes) -> None:
    """Raise ``OverflowError`` for integers that fit into msgpack, but not into int64, which Arrow has."""
    if _large(section) and _has_large(_decode(section)):
        raise _refusal(OverflowError())


def _has_large(value: Any) -> bool:
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list):
        return isinstance(value, int) and value > _HIGHEST
    return any(_has_large(item) for item in value)


def _refusal(error: OverflowError | UnicodeEncodeError) -> Exception:
    if isinstance(error, UnicodeEncodeError):
        return UnsupportedData(f"text in metadata has to be Unicode, not {error.object!r}")
    return OverflowError(
        "the integers of metadata have 64 bits, from -2**63 to 2**63 - 1; send a larger one as text"
    )


def decode_metadata(section: bytes) -> dict[str, Any]:
    """Return the metadata of a received message as a new dictionary; raises `MetadataError`."""
    if not section:
        return {}
    try:
        return _decode(section)
    except (ValueError, RecursionError, MemoryError, OverflowError, TypeError) as error:
        raise MetadataError(f"the metadata of a message cannot be decoded: {error}") from error


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def as_nanoseconds(time: datetime) -> int:
    """Return an aware datetime as nanoseconds since the Unix epoch."""
    since = time - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000_000 + since.microseconds * 1000


def as_datetime(time_ns: int) -> datetime:
    """Return nanoseconds since the Unix epoch as an aware UTC datetime (microseconds)."""
    return _EPOCH + timedelta(0, 0, time_ns // 1000)
