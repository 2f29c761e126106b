"""A message's metadata: a dictionary with string keys, as msgpack.

Kept with their types: ``None``, ``bool``, ``int`` (-2**63 … 2**64 - 1), ``float``, ``str``, ``bytes``,
aware ``datetime`` (arrives in UTC, microseconds), and lists and dictionaries of these, nested as one
likes. Tuples and sets arrive as lists, naive datetimes are taken as local time, NumPy scalars and
arrays become numbers and lists, enums their values, dataclasses dictionaries; dates, UUIDs and
decimals become text. Anything else is sent as ``str(value)``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from dora.errors import UnsupportedData

_SIMPLE = frozenset((str, int, float, bool, type(None), bytes))

_decode = msgspec.msgpack.Decoder(dict[str, Any]).decode


class MetadataError(ValueError):
    """The metadata of a received message cannot be decoded."""


def _as_plain(value: Any) -> Any:
    """Turn what msgpack does not know into something it does (called by the encoder)."""
    item = getattr(value, "tolist", None)  # NumPy scalars and arrays
    if item is not None:
        return item()
    on_text = _on_text
    if on_text is not None:
        on_text(value)
    return str(value)


_on_text: Callable[[Any], None] | None = None


def on_text(callback: Callable[[Any], None] | None) -> None:
    """Set what is called with each value that had to be turned into text (a warning, say)."""
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
    if isinstance(value, (str, float)):  # subclasses, for example numpy.str_ and numpy.float64
        return str(value) if isinstance(value, str) else float(value)
    return value


def encode_metadata(metadata: Mapping[str, Any]) -> bytes:
    """Return the metadata section.

    Raises `UnsupportedData` for what is no dictionary and for a key that is no string,
    ``OverflowError`` for an integer out of range, ``ValueError`` for values that contain themselves.
    """
    # The loop of `_is_simple`, without the call: receivers wait for this.
    try:
        items = metadata.items()
    except AttributeError:
        raise _no_mapping(metadata) from None
    for key, value in items:
        if key.__class__ is not str or (
            value.__class__ not in _SIMPLE and (value.__class__ is not datetime or value.tzinfo is not UTC)
        ):
            return _encode_any(metadata)
    return _encode(metadata)


def _is_simple(metadata: Mapping[str, Any]) -> bool:
    """Tell whether metadata arrives as it is: no nesting, nothing to convert. Most is."""
    for key, value in metadata.items():
        if key.__class__ is not str:
            return False
        if value.__class__ not in _SIMPLE and (value.__class__ is not datetime or value.tzinfo is not UTC):
            return False
    return True


def as_received(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return metadata as a receiver would get it; raises `UnsupportedData` for a key that is no string."""
    if not isinstance(metadata, Mapping):
        raise _no_mapping(metadata)
    received: dict[str, Any] = dict(metadata) if _is_simple(metadata) else normalise(metadata)
    return received


def _no_mapping(metadata: object) -> UnsupportedData:
    return UnsupportedData(f"metadata is a dictionary, not {type(metadata).__name__}")


def _encode_any(metadata: Mapping[str, Any]) -> bytes:
    try:
        return _encode(normalise(metadata))
    except RecursionError:
        raise ValueError("the metadata is nested too deeply, or contains itself") from None


def decode_metadata(section: bytes) -> dict[str, Any]:
    """Return the metadata of a received message as a new dictionary; raises `MetadataError`."""
    if not section:
        return {}
    try:
        return _decode(section)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise MetadataError(f"the metadata of a message cannot be decoded: {error}") from error


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def as_datetime(time_ns: int) -> datetime:
    """Return nanoseconds since the Unix epoch as an aware UTC datetime (microseconds)."""
    return _EPOCH + timedelta(0, 0, time_ns // 1000)
