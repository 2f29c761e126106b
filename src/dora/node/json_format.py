"""Arrow arrays and metadata as JSON: the format of recorded inputs and outputs.

The one that dora-rs 1.x writes and reads. An array is a list of values (times in ISO 8601, bytes in
hexadecimal) beside its type; a type is a name, or a mapping from a name to its parameters. Metadata
values carry their type as a tag. Three tags are ours, for what dora-rs cannot send: ``Json`` for null,
mappings and mixed lists, ``Bytes``, and ``Nested`` for mappings and lists with values that JSON does not
have; each value in it has a tag.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from dora.errors import ConnectError

_UNITS: Final = {"Second": "s", "Millisecond": "ms", "Microsecond": "us", "Nanosecond": "ns"}
_UNIT_NAMES: Final = {short: name for name, short in _UNITS.items()}
_PER_SECOND: Final = {"s": 1, "ms": 1000, "us": 1_000_000, "ns": 1_000_000_000}
_SIMPLE: Final = {  # name of the type → name of the function of pyarrow that makes it
    "Null": "null",
    "Boolean": "bool_",
    "Int8": "int8",
    "Int16": "int16",
    "Int32": "int32",
    "Int64": "int64",
    "UInt8": "uint8",
    "UInt16": "uint16",
    "UInt32": "uint32",
    "UInt64": "uint64",
    "Float16": "float16",
    "Float32": "float32",
    "Float64": "float64",
    "Utf8": "string",
    "LargeUtf8": "large_string",
    "Utf8View": "string_view",
    "Binary": "binary",
    "LargeBinary": "large_binary",
    "BinaryView": "binary_view",
    "Date32": "date32",
    "Date64": "date64",
}
_DURATION: Final = re.compile(r"(-?)P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)(?:\.(\d+))?S)?)?")
_EPOCH: Final = dt.datetime(1970, 1, 1)


class RecordingError(ConnectError):
    """A recording cannot be read; the message has the file, and the place in it."""


# --------------------------------------------------------------------------- types


def type_to_json(type_: Any) -> Any:
    """Return the JSON form of an Arrow type; raises ``ValueError`` for one that has none."""
    import pyarrow as pa

    for name, maker in _SIMPLE.items():
        make = getattr(pa, maker, None)
        if make is not None and type_ == make():
            return name
    kinds = pa.types
    if kinds.is_timestamp(type_):
        return {"Timestamp": [_UNIT_NAMES[type_.unit], type_.tz]}
    if kinds.is_time32(type_) or kinds.is_time64(type_):
        return {f"Time{type_.bit_width}": _UNIT_NAMES[type_.unit]}
    if kinds.is_duration(type_):
        return {"Duration": _UNIT_NAMES[type_.unit]}
    if kinds.is_fixed_size_binary(type_):
        return {"FixedSizeBinary": type_.byte_width}
    if kinds.is_list(type_):
        return {"List": _field_to_json(type_.value_field)}
    if kinds.is_large_list(type_):
        return {"LargeList": _field_to_json(type_.value_field)}
    if kinds.is_fixed_size_list(type_):
        return {"FixedSizeList": [_field_to_json(type_.value_field), type_.list_size]}
    if kinds.is_struct(type_):
        return {"Struct": [_field_to_json(type_.field(index)) for index in range(type_.num_fields)]}
    if kinds.is_dictionary(type_):
        return {"Dictionary": [type_to_json(type_.index_type), type_to_json(type_.value_type)]}
    if kinds.is_decimal128(type_) or kinds.is_decimal256(type_):
        return {f"Decimal{type_.bit_width}": [type_.precision, type_.scale]}
    if isinstance(type_, pa.BaseExtensionType):
        return type_to_json(type_.storage_type)
    raise ValueError(f"the Arrow type {type_} has no form in a recording")


def _field_to_json(field: Any) -> dict[str, Any]:
    return {
        "name": field.name,
        "data_type": type_to_json(field.type),
        "nullable": field.nullable,
        "dict_id": 0,
        "dict_is_ordered": False,
        "metadata": {},
    }


def type_from_json(form: Any) -> Any:
    """Return the Arrow type of a JSON form; raises ``ValueError``."""
    import pyarrow as pa

    if isinstance(form, str):
        if form not in _SIMPLE:
            raise ValueError(f"{form!r} is not the name of an Arrow type")
        return getattr(pa, _SIMPLE[form])()
    if not isinstance(form, Mapping) or len(form) != 1:
        raise ValueError(f"{form!r} is not an Arrow type")
    ((name, given),) = form.items()
    match name:
        case "Timestamp":
            return pa.timestamp(_UNITS[given[0]], given[1])
        case "Time32":
            return pa.time32(_UNITS[given])
        case "Time64":
            return pa.time64(_UNITS[given])
        case "Duration":
            return pa.duration(_UNITS[given])
        case "FixedSizeBinary":
            return pa.binary(given)
        case "List":
            return pa.list_(_field_from_json(given))
        case "LargeList":
            return pa.large_list(_field_from_json(given))
        case "FixedSizeList":
            return pa.list_(_field_from_json(given[0]), given[1])
        case "Struct":
            return pa.struct([_field_from_json(field) for field in given])
        case "Dictionary":
            return pa.dictionary(type_from_json(given[0]), type_from_json(given[1]))
        case "Decimal128":
            return pa.decimal128(*given)
        case "Decimal256":
            return pa.decimal256(*given)
    raise ValueError(f"{name!r} is not the name of an Arrow type")


def _field_from_json(form: Mapping[str, Any]) -> Any:
    import pyarrow as pa

    return pa.field(form["name"], type_from_json(form["data_type"]), form.get("nullable", True))


# --------------------------------------------------------------------------- values


def array_to_json(array: Any) -> list[Any]:
    """Return the values of an Arrow array."""
    type_ = _in_microseconds(array.type)
    if type_ != array.type:
        array = array.cast(type_, safe=False)
    return [_to_json(value) for value in array.to_pylist()]


def _in_microseconds(type_: Any) -> Any:
    """Return a type without nanoseconds, which Python's times cannot hold: the casts cut them.

    An extension becomes its storage, of which a recording has the type.
    """
    import pyarrow as pa

    kinds = pa.types
    if isinstance(type_, pa.BaseExtensionType):
        return _in_microseconds(type_.storage_type)
    if getattr(type_, "unit", "") == "ns":
        if kinds.is_timestamp(type_):
            return pa.timestamp("us", type_.tz)
        return pa.duration("us") if kinds.is_duration(type_) else pa.time64("us")
    if kinds.is_dictionary(type_):
        return _in_microseconds(type_.value_type)

    def inner(field: Any) -> Any:
        return field.with_type(_in_microseconds(field.type))

    if kinds.is_struct(type_):
        return pa.struct([inner(type_.field(index)) for index in range(type_.num_fields)])
    if kinds.is_list(type_):
        return pa.list_(inner(type_.value_field))
    if kinds.is_large_list(type_):
        return pa.large_list(inner(type_.value_field))
    if kinds.is_fixed_size_list(type_):
        return pa.list_(inner(type_.value_field), type_.list_size)
    return type_


def _to_json(value: Any) -> Any:
    match value:
        case float() if value != value or value in (float("inf"), float("-inf")):
            return str(value)  # JSON has no word for it
        case None | bool() | int() | float() | str():
            return value
        case bytes():
            return value.hex()
        case list() | tuple():
            return [_to_json(item) for item in value]
        case dict():
            return {key: _to_json(item) for key, item in value.items()}
        case dt.timedelta():
            seconds = value.total_seconds()
            sign = "-" if seconds < 0 else ""
            return f"{sign}PT{abs(seconds):.6f}".rstrip("0").rstrip(".") + "S"
        case dt.datetime() | dt.date() | dt.time():
            return value.isoformat().replace("+00:00", "Z")
    return str(value)


def array_from_json(data: Any, form: Any = None) -> Any:
    """Return the Arrow array of recorded values.

    Without a type (``form``) it is inferred; what is no list counts as a list of one. Raises
    ``ValueError``.
    """
    import pyarrow as pa

    values = data if isinstance(data, list) else [data]
    try:
        if form is None:
            return pa.array(values)
        type_ = type_from_json(form)
        if pa.types.is_dictionary(type_):
            plain = [_from_json(value, type_.value_type) for value in values]
            return pa.array(plain, type_.value_type).dictionary_encode().cast(type_)
        return pa.array([_from_json(value, type_) for value in values], type_)
    except (KeyError, IndexError, TypeError, OverflowError, pa.ArrowException) as error:
        raise ValueError(f"the data does not fit its type {form!r}: {error}") from error


def _from_json(value: Any, type_: Any) -> Any:
    import pyarrow as pa

    kinds = pa.types
    if kinds.is_dictionary(type_):
        type_ = type_.value_type
    if value is None:
        return None
    if kinds.is_floating(type_):
        return float(value)
    if kinds.is_decimal(type_):
        return Decimal(str(value))
    if isinstance(value, str):
        if type_ in (pa.binary(), pa.large_binary(), pa.binary_view()) or kinds.is_fixed_size_binary(type_):
            return bytes.fromhex(value)
        if kinds.is_timestamp(type_):
            return _moment(value, type_)
        if kinds.is_date(type_):
            return dt.date.fromisoformat(value[:10])
        if kinds.is_time(type_):
            return dt.time.fromisoformat(value)
        if kinds.is_duration(type_):
            return _duration(value, type_)
    if isinstance(value, list) and hasattr(type_, "value_type"):
        return [_from_json(item, type_.value_type) for item in value]
    if isinstance(value, dict) and kinds.is_struct(type_):
        return {
            field.name: _from_json(value.get(field.name), field.type)
            for field in (type_.field(index) for index in range(type_.num_fields))
        }
    return value


def _moment(text: str, type_: Any) -> int:
    head, _, rest = text.partition(".")
    digits = re.match(r"\d*", rest)
    fraction = digits.group() if digits else ""
    moment = dt.datetime.fromisoformat(head + rest[len(fraction) :])
    if moment.tzinfo is not None:
        moment = moment.astimezone(dt.UTC).replace(tzinfo=None)
    total_seconds = (moment - _EPOCH) // dt.timedelta(seconds=1)
    per_second = _PER_SECOND[type_.unit]
    return total_seconds * per_second + int((fraction + "000000000")[:9]) * per_second // 1_000_000_000


def _duration(text: str, type_: Any) -> int:
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not a duration")
    sign, days, hours, minutes, seconds, fraction = found.groups()
    total_seconds = (
        int(days or 0) * 86400 + int(hours or 0) * 3600 + int(minutes or 0) * 60 + int(seconds or 0)
    )
    per_second = _PER_SECOND[type_.unit]
    amount = (
        total_seconds * per_second + int(((fraction or "") + "000000000")[:9]) * per_second // 1_000_000_000
    )
    return -amount if sign else amount


# --------------------------------------------------------------------------- metadata


def metadata_to_json(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return metadata with its types as tags."""
    return {key: _tagged(value) for key, value in metadata.items()}


def _tagged(value: Any) -> dict[str, Any]:
    match value:
        case bool():
            return {"Bool": value}
        case int():
            return {"Integer": value}
        case float():
            return {"Float": _to_json(value)}
        case str():
            return {"String": value}
        case bytes():
            return {"Bytes": value.hex()}
        case dt.datetime():
            return {"Timestamp": _to_json(value)}
        case list() if value:
            for kind, tag in ((int, "ListInt"), (float, "ListFloat"), (str, "ListString")):
                if all(type(item) is kind for item in value):
                    return {tag: _to_json(value)}
    if _is_json(value):
        return {"Json": value}
    if isinstance(value, dict):
        return {"Nested": metadata_to_json(value)}
    return {"Nested": [_tagged(item) for item in value]}


def _is_json(value: Any) -> bool:
    match value:
        case dict():
            return all(map(_is_json, value.values()))
        case list():
            return all(map(_is_json, value))
        case float():
            return math.isfinite(value)
    return value is None or isinstance(value, (bool, int, str))


def metadata_from_json(form: Mapping[str, Any]) -> dict[str, Any]:
    """Return metadata without tags; values without a tag are taken as they are.

    Raises ``ValueError`` for an unknown tag.
    """
    return {key: _untagged(key, value) for key, value in form.items()}


def _untagged(key: str, form: Any) -> Any:
    if not isinstance(form, Mapping):
        return form
    tag: str
    value: Any
    tag, value = next(iter(form.items()), ("", None))
    match tag:
        case "Bool" | "Integer" | "String" | "ListInt" | "ListString" | "Json":
            return value
        case "Float":
            return float(value)
        case "ListFloat":
            return [float(item) for item in value]
        case "Nested":
            if isinstance(value, Mapping):
                return metadata_from_json(value)
            return [_untagged(key, item) for item in value]
        case "Bytes":
            return bytes.fromhex(value)
        case "Timestamp":
            return dt.datetime.fromisoformat(value)
    raise ValueError(f"the metadata `{key}` has the unknown type `{tag}`")
