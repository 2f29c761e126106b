"""Metadata: what arrives of what was sent with a message."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import math
import types
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dora.errors import UnsupportedData
from dora.wire import metadata as module
from dora.wire.metadata import MetadataError, as_datetime, as_received, decode_metadata, encode_metadata

UTC = datetime.UTC
NOON = datetime.datetime(2024, 2, 29, 12, 0, 0, 123456, UTC)

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.datetimes(timezones=st.just(UTC))
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4)
)


def passed(value: Any) -> Any:
    return decode_metadata(encode_metadata({"key": value}))["key"]


@pytest.mark.lengthy
@given(st.dictionaries(st.text(), VALUES, max_size=5))
@settings(derandomize=True, deadline=None)
def test_plain_metadata_keeps_values_and_types(metadata: dict[str, Any]) -> None:
    received = decode_metadata(encode_metadata(metadata))
    assert received == metadata
    assert _types(received) == _types(metadata)


def _types(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _types(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_types(item) for item in value]
    return type(value)


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Number(int):
    pass


class Raw(bytes):
    pass


@dataclasses.dataclass
class Size:
    width: int


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ((1, 2), [1, 2]),
        ([1, 2.5, "a", None, b"\x00", [True]], [1, 2.5, "a", None, b"\x00", [True]]),
        ([True, 1], [True, 1]),
        ({"box": {"corner": (1, 2)}}, {"box": {"corner": [1, 2]}}),
        (types.MappingProxyType({"x": 1}), {"x": 1}),
        ({1}, [1]),
        ([], []),
        ({}, {}),
        (bytearray(b"ab"), b"ab"),
        (np.float64(0.5), 0.5),
        (np.float32(0.5), 0.5),
        (np.int64(-5), -5),
        (np.uint8(5), 5),
        (np.bool_(True), True),
        (np.str_("text"), "text"),
        (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        (np.array([0.5], np.float32), [0.5]),
        ([np.int8(1), {"x": np.float32(0.5)}], [1, {"x": 0.5}]),
        (Colour.RED, "red"),
        (Level.HIGH, 3),
        (Size(3), {"width": 3}),
        (datetime.date(2024, 2, 29), "2024-02-29"),
        (uuid.UUID(int=5), "00000000-0000-0000-0000-000000000005"),
        (decimal.Decimal("1.50"), "1.50"),
        (1 + 2j, "(1+2j)"),
        (range(3), "range(0, 3)"),
        (-(2**63), -(2**63)),
        (2**63 - 1, 2**63 - 1),
        (Number(5), 5),
        (Raw(b"ab"), b"ab"),
        (math.inf, math.inf),
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_metadata_values_become_plain_types(sent: Any, expected: Any) -> None:
    received = passed(sent)
    assert received == expected
    assert _types(received) == _types(expected)


def test_not_a_number_stays_not_a_number() -> None:
    assert math.isnan(passed(math.nan))


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (NOON, NOON),
        (NOON.astimezone(datetime.timezone(datetime.timedelta(hours=5))), NOON),
        (NOON.astimezone().replace(tzinfo=None), NOON),  # naive: local time
        (datetime.datetime(1, 1, 1, tzinfo=UTC), datetime.datetime(1, 1, 1, tzinfo=UTC)),
        (
            datetime.datetime(9999, 12, 31, 23, 59, 59, 999999, UTC),
            datetime.datetime(9999, 12, 31, 23, 59, 59, 999999, UTC),
        ),
    ],
)
def test_times_arrive_in_utc_with_their_microseconds(
    sent: datetime.datetime, expected: datetime.datetime
) -> None:
    for received in (passed(sent), passed([sent])[0], passed({"at": sent})["at"]):
        assert received == expected
        assert received.tzinfo is UTC


def test_sending_does_not_change_the_senders_dictionary() -> None:
    metadata = {"a": (1, 2), "b": {"c": np.int8(1)}}
    encode_metadata(metadata)
    assert metadata["a"] == (1, 2)
    assert isinstance(metadata["b"]["c"], np.int8)  # type: ignore[index]


def test_a_received_dictionary_is_the_receivers_own() -> None:
    section = encode_metadata({"a": [1]})
    decode_metadata(section)["a"].append(2)
    assert decode_metadata(section) == {"a": [1]}
    first = decode_metadata(b"")
    first["x"] = 1
    assert decode_metadata(b"") == {}


@pytest.mark.parametrize("metadata", [{1: "x"}, {"x": {1: 2}}, {"x": [{None: 1}]}])
def test_keys_are_strings(metadata: Any) -> None:
    with pytest.raises(TypeError, match="the keys of metadata are strings, not"):
        encode_metadata(metadata)


def test_keys_may_be_a_kind_of_string() -> None:
    assert decode_metadata(encode_metadata({np.str_("key"): 1})) == {"key": 1}


@pytest.mark.parametrize("number", [2**63, 2**64 - 1, 2**64, -(2**63) - 1])
@pytest.mark.parametrize("wrap", [lambda n: n, lambda n: {"y": [{"z": n}]}, lambda n: {n}])
def test_integers_out_of_range_are_refused_however_deep(number: int, wrap: Callable[[int], Any]) -> None:
    for form in (encode_metadata, as_received):
        with pytest.raises(OverflowError, match=r"from -2\*\*63 to 2\*\*63 - 1"):
            form({"x": wrap(number)})


@pytest.mark.parametrize("number", [np.uint64(2**63), np.array([2**63], np.uint64)])
def test_numpys_integers_out_of_range_are_refused(number: Any) -> None:
    with pytest.raises(OverflowError):
        encode_metadata({"x": number})


@pytest.mark.parametrize("value", ["\xcf\xff", b"\xcf\xff" * 5, 2.0**63, [2**63 - 1, b"\xcf\xff"]])
def test_bytes_that_look_like_a_large_integer_pass(value: Any) -> None:
    assert passed(value) == value


def test_text_that_is_no_unicode_is_refused() -> None:
    for metadata in ({"x": "\ud800"}, {"\ud800": 1}, {"x": ["\ud800"]}):
        with pytest.raises(UnsupportedData, match="has to be Unicode"):
            encode_metadata(metadata)


@pytest.mark.parametrize(
    "metadata",
    [
        {"a": 1, "b": "x", "c": None},
        {"a": np.float32(0.5), "b": np.array([1, 2]), "c": {1}, "d": (1, 2), "e": Colour.RED, "f": Size(3)},
        {"at": NOON.astimezone().replace(tzinfo=None), "raw": bytearray(b"ab"), "uuid": uuid.UUID(int=5)},
    ],
)
def test_operators_of_one_runtime_get_metadata_like_processes(
    metadata: dict[str, Any],
) -> None:
    received = as_received(metadata)
    assert received == decode_metadata(encode_metadata(metadata))
    assert _types(received) == _types(decode_metadata(encode_metadata(metadata)))
    assert received is not metadata


def test_values_that_contain_themselves_are_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(ValueError, match="contains itself"):
        encode_metadata({"x": endless})


@pytest.fixture
def told() -> Iterator[list[Any]]:
    before = module._on_text
    values: list[Any] = []
    module.on_text(values.append)
    yield values
    module.on_text(before)


def test_a_callback_gets_values_that_became_text(told: list[Any]) -> None:
    encode_metadata({"plain": 1, "list": [1.5], "array": np.zeros(2)})
    assert told == []
    encode_metadata({"odd": [1 + 2j]})
    assert told == [1 + 2j]


@pytest.mark.lengthy
@given(st.binary(max_size=100))
@settings(derandomize=True, deadline=None, max_examples=500)
def test_any_bytes_are_metadata_or_a_metadata_error(section: bytes) -> None:
    try:
        assert isinstance(decode_metadata(section), dict)
    except MetadataError as error:
        assert "cannot be decoded" in str(error)


def test_absurdly_deep_nesting_is_a_metadata_error() -> None:
    with pytest.raises(MetadataError):
        decode_metadata(b"\x81\xa1k" + b"\x91" * 100_000 + b"\xc0")


@pytest.mark.parametrize(
    ("time_ns", "expected"),
    [
        (0, datetime.datetime(1970, 1, 1, tzinfo=UTC)),
        (1_709_208_000_123_456_789, NOON),
        (2**64 - 1, datetime.datetime(2554, 7, 21, 23, 34, 33, 709551, UTC)),
    ],
)
def test_times_of_sending_are_exact_to_the_microsecond(time_ns: int, expected: datetime.datetime) -> None:
    assert as_datetime(time_ns) == expected
    assert as_datetime(time_ns).tzinfo is UTC
