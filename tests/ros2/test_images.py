"""Images of ROS and images of dora: the same pixels, named as each side names them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from dora.ros2 import InterfaceLibrary, MalformedMessage, ValueMismatch, image_message, image_of

LIBRARY = InterfaceLibrary(prefixes=[], distribution="kilted")
IMAGE = LIBRARY.message("sensor_msgs/Image")
COMPRESSED = LIBRARY.message("sensor_msgs/CompressedImage")


def received(**fields: Any) -> Any:
    return IMAGE.decode(IMAGE.encode(fields))


@pytest.mark.parametrize(
    ("encoding", "named", "pixel"),
    [
        *(("rgb8", "rgb8", 3), ("bgr8", "bgr8", 3), ("rgba8", "rgba8", 4), ("mono8", "mono8", 1)),
        *(("8UC3", "bgr8", 3), ("16UC1", "mono16", 2), ("32FC1", "32FC1", 4), ("yuv422_yuy2", "yuyv", 2)),
        ("bayer_rggb8", "bayer_rggb8", 1),
    ],
)
def test_pixels_come_as_flat_bytes_with_their_size(encoding: str, named: str, pixel: int) -> None:
    pixels = np.arange(4 * 3 * pixel, dtype=np.uint8)
    message = received(height=3, width=4, encoding=encoding, step=4 * pixel, data=pixels)
    data, metadata = image_of(message)
    assert (data.type, data.to_pylist()) == (pa.uint8(), pixels.tolist())
    assert metadata == {"width": 4, "height": 3, "encoding": named}
    assert data.buffers()[1].address == message.field("data").values.buffers()[1].address


def test_bytes_at_the_end_of_rows_are_left_out() -> None:
    rows = np.arange(2 * 8, dtype=np.uint8).reshape(2, 8)
    message = received(height=2, width=2, encoding="rgb8", step=8, data=np.append(rows, [9, 9, 9]))
    assert image_of(message)[0].to_pylist() == rows[:, :6].ravel().tolist()
    message = received(height=2, width=2, encoding="unknown", step=8, data=np.append(rows, [9, 9, 9]))
    assert image_of(message)[0].to_pylist() == rows.ravel().tolist()


def test_big_endian_pixels_become_little_endian() -> None:
    message = received(height=1, width=2, encoding="mono16", step=4, is_bigendian=1, data=[1, 2, 3, 4])
    assert image_of(message)[0].to_pylist() == [2, 1, 4, 3]


@pytest.mark.parametrize(
    ("encoding", "dtype"),
    [("16UC3", "u2"), ("16SC1", "i2"), ("32FC1", "f4"), ("32SC2", "i4"), ("64FC2", "f8")],
)
def test_pixels_of_opencv_have_values_of_several_bytes_and_channels(encoding: str, dtype: str) -> None:
    channels = int(encoding[-1])
    values = np.arange(2 * 2 * channels, dtype=f">{dtype}")
    row = values.itemsize * 2 * channels
    padded = np.pad(values.view(np.uint8).reshape(2, row), ((0, 0), (0, 3))).ravel()
    fields = {"height": 2, "width": 2, "encoding": encoding, "step": row + 3, "data": padded}
    data, metadata = image_of(received(is_bigendian=1, **fields))
    assert data.to_numpy().view(f"<{dtype}").tolist() == values.tolist()
    assert metadata == {"width": 2, "height": 2, "encoding": encoding}
    with pytest.raises(ValueMismatch, match=f"expected {2 * row} bytes for 2 × 2 pixels of {encoding}"):
        image_message(padded, metadata)


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        *(("jpeg", "jpeg"), ("png", "png"), ("JPG", "jpeg"), ("rgb8; jpeg compressed bgr8", "jpeg")),
        ("mono16; png compressed ", "png"),
        ("h264", "h264"),
    ],
)
def test_a_compressed_image_comes_as_a_file(text: str, encoding: str) -> None:
    message = COMPRESSED.decode(COMPRESSED.encode({"format": text, "data": b"\xff\xd8"}))
    data, metadata = image_of(message)
    assert (data.to_pylist(), metadata) == ([0xFF, 0xD8], {"encoding": encoding})


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"height": 2, "width": 2, "step": 6, "encoding": "rgb8", "data": [1] * 11},
            "2 rows of 6 bytes need 12 bytes, it has 11",
        ),
        (
            {"height": 1, "width": 2, "step": 5, "encoding": "rgb8", "data": [1] * 5},
            "2 pixels of rgb8 need 6 bytes, but a row has 5",
        ),
    ],
)
def test_an_image_with_too_few_bytes_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(MalformedMessage, match=said):
        image_of(received(**fields))


@pytest.mark.parametrize("data", [np.arange(18, dtype=np.uint8), pa.array(np.arange(18, dtype=np.uint8))])
def test_an_image_of_dora_becomes_a_message(data: Any) -> None:
    header = {"frame_id": "camera", "stamp": {"sec": 1}}
    name, value = image_message(data, {"width": 2, "height": 3, "encoding": "rgb8"}, header)
    found = LIBRARY.message(name).decode(LIBRARY.message(name).encode(value))
    assert name == "sensor_msgs/msg/Image"
    assert found.field("header")[0].as_py() == {"stamp": {"sec": 1, "nanosec": 0}, "frame_id": "camera"}
    assert [found.field(one)[0].as_py() for one in ("width", "height", "step", "encoding")] == [
        2,
        3,
        6,
        "rgb8",
    ]
    assert image_of(found)[0].to_pylist() == list(range(18))


def test_the_names_and_types_of_pixels_are_those_of_ros() -> None:
    picture = np.zeros((3, 2, 3), np.uint8)
    assert image_message(picture, {"width": 2, "height": 3})[1]["encoding"] == "bgr8"
    depth = np.arange(4, dtype=np.uint16)
    value = image_message(depth, {"width": 2, "height": 2, "encoding": "mono16"})[1]
    assert (value["step"], bytes(value["data"][:4])) == (4, b"\0\0\1\0")
    assert (
        image_message(depth, {"width": 2, "height": 2, "encoding": "yuyv"})[1]["encoding"] == "yuv422_yuy2"
    )
    name, value = image_message(
        pa.array([1, 2], pa.uint8()), {"encoding": "jpeg", "width": 640, "height": 480}
    )
    assert (name, value["format"]) == ("sensor_msgs/msg/CompressedImage", "jpeg")
    assert COMPRESSED.encode(value)


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        (
            {},
            "field 'width' of sensor_msgs/msg/Image: expected the size of the image .*, got nothing",
        ),
        (
            {"width": 2, "height": 2.0},
            r"field 'height' of sensor_msgs/msg/Image: expected the size .*, got 2\.0",
        ),
        ({"width": 2, "height": 2}, "expected 12 bytes for 2 × 2 pixels of bgr8, got 18 bytes"),
        (
            {"width": 0, "height": 0, "encoding": "rgb8"},
            "expected 0 bytes for 0 × 0 pixels of rgb8, got 18 bytes",
        ),
    ],
)
def test_an_image_without_a_fitting_size_is_refused(metadata: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueMismatch, match=said):
        image_message(np.zeros(18, np.uint8), metadata)


@pytest.mark.parametrize(
    "data", [pa.array(["text"]), pa.array([[1, 2]]), np.array(["text"]), np.array([None]), pa.nulls(1)]
)
def test_an_image_of_something_else_than_numbers_is_refused(data: Any) -> None:
    with pytest.raises(ValueMismatch, match="expected the bytes of an image, got an array of "):
        image_message(data, {"width": 1, "height": 1})


def test_half_a_big_endian_value_is_refused() -> None:
    message = received(height=3, width=0, encoding="mono16", step=1, is_bigendian=1, data=[1, 2, 3])
    with pytest.raises(MalformedMessage, match="mono16 has values of 2 bytes, but there are 3"):
        image_of(message)
