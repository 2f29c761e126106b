"""What the dashboard makes of messages: by declared type, metadata, name and Arrow type."""

from __future__ import annotations

import io
import json
import time
import weakref
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from recorded_files import T0, message_of

from dora.observe.preview import images as pictures
from dora.observe.preview import topic as topics
from dora.observe.preview.render import MAX_CURVE, MAX_POINTS, MAX_ROWS, MAX_SERIES, MAX_TEXT, show
from dora.observe.preview.topic import MAX_STEPS, PreviewTopic
from dora.wire.array_shape import describe
from dora.wire.message import Message

MEDIA, VISION = "std/media/v1", "std/vision/v1"


def shown(
    value: Any, metadata: dict[str, Any] | None = None, *, name: str = "a/out", declared: str = ""
) -> Any:
    array = value if isinstance(value, pa.Array) else pa.array(value)
    return show(name, declared, array, metadata or {})


def opened(preview: Any) -> np.ndarray:
    """Return the pixels of a picture."""
    from PIL import Image

    assert preview.kind == "image"
    return np.asarray(Image.open(io.BytesIO(preview.body)).convert("RGB"))


def red(width: int, height: int, channels: int = 3, at: int = 2) -> np.ndarray:
    pixels = np.zeros((height, width, channels), np.uint8)
    pixels[:, :, at] = 250
    return pixels.reshape(-1)


# ---------------------------------------------------------------------------------- pictures


@pytest.mark.parametrize(("encoding", "at"), [("bgr8", 2), ("rgb8", 0), (None, 2)])
def test_pixels_with_their_size_in_the_metadata_are_a_picture(encoding: str | None, at: int) -> None:
    metadata = {"width": 64, "height": 48, **({"encoding": encoding} if encoding else {})}
    preview = shown(red(64, 48, at=at), metadata)
    assert (preview.head["width"], preview.head["height"], preview.head["media_type"]) == (
        64,
        48,
        "image/jpeg",
    )
    assert opened(preview).shape == (48, 64, 3)
    assert opened(preview)[20, 20, 0] > 220 and opened(preview)[20, 20, 2] < 40


@pytest.mark.parametrize(("shape", "colour"), [((48, 64, 3), (0, 0, 250)), ((48, 64), (250, 250, 250))])
def test_a_numpy_array_in_the_shape_of_a_picture_is_one(
    shape: tuple[int, ...], colour: tuple[int, ...]
) -> None:
    array = np.zeros(shape, np.uint8)
    array[..., :1] = 250  # the first channel, which is blue in OpenCV's order
    array[:] = array if array.ndim == 3 else 250
    preview = shown(array.reshape(-1), describe(array, None))
    pixels = opened(preview)
    assert pixels.shape == (48, 64, 3)
    assert np.abs(pixels[20, 20].astype(int) - colour).max() < 10


def test_a_declared_image_is_a_picture() -> None:
    value = [{"width": 8, "height": 4, "encoding": "rgb8", "data": red(8, 4, at=0).tobytes()}]
    kind = pa.struct(
        [
            ("width", pa.uint32()),
            ("height", pa.uint32()),
            ("encoding", pa.utf8()),
            ("data", pa.large_binary()),
        ]
    )
    preview = shown(pa.array(value, kind), declared=f"{MEDIA}/Image")
    assert opened(preview)[2, 4, 0] > 220


def test_grey_and_16_bit_and_yuv_are_pictures() -> None:
    grey = np.full(8 * 4, 200, np.uint8)
    assert abs(int(opened(shown(grey, {"width": 8, "height": 4, "encoding": "mono8"}))[0, 0, 0]) - 200) < 8
    deep = np.full(8 * 4, 200 << 8, np.uint16)
    assert abs(int(opened(shown(deep, {"width": 8, "height": 4, "encoding": "mono16"}))[0, 0, 0]) - 200) < 8
    packed = np.full(8 * 4 * 2, 200, np.uint8)
    assert abs(int(opened(shown(packed, {"width": 8, "height": 4, "encoding": "yuyv"}))[0, 0, 0]) - 200) < 8


def test_encoded_images_are_passed_on_unchanged() -> None:
    data = shown(red(16, 16), {"width": 16, "height": 16}).body
    for value, declared, metadata in (
        (np.frombuffer(data, np.uint8), "", {}),
        (np.frombuffer(data, np.uint8), "", {"encoding": "jpeg", "width": 16, "height": 16}),
        (pa.array([data], pa.large_binary()), f"{MEDIA}/CompressedImage", {}),
    ):
        preview = shown(value, metadata, declared=declared)
        assert (preview.kind, preview.head["media_type"], preview.body) == ("image", "image/jpeg", data)


def test_pixels_that_begin_as_a_file_does_are_pixels() -> None:
    pixels = red(64, 48)
    pixels[:2] = np.frombuffer(b"BM", np.uint8)
    preview = shown(pixels, {"width": 64, "height": 48, "encoding": "bgr8"})
    assert (preview.kind, preview.head["media_type"]) == ("image", "image/jpeg")


def test_without_a_library_the_pixels_are_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "library", lambda: "")
    preview = shown(red(4, 2), {"width": 4, "height": 2})
    assert preview.head["media_type"] == "rgb" and preview.head["shown"] == (4, 2)
    assert preview.body == bytes([250, 0, 0] * 8)
    monkeypatch.setattr(pictures, "library", lambda: "PIL.Image")
    assert opened(shown(red(64, 48), {"width": 64, "height": 48}))[20, 20, 0] > 220


def test_an_image_of_half_a_gigabyte_is_downsampled_at_once() -> None:
    pixels = np.zeros(16_384 * 10_240 * 3, np.uint8)  # only the sampled pages are ever touched
    begun = time.process_time()
    preview = shown(
        pa.Array.from_buffers(pa.uint8(), pixels.size, [None, pa.py_buffer(pixels)]),
        {"width": 16_384, "height": 10_240},
    )
    assert preview.head["width"] == 16_384 and max(preview.head["shown"]) <= pictures.MAX_SIDE
    assert len(preview.body) < 1 << 20 and time.process_time() - begun < 1.0


def test_depth_and_masks_are_pictures() -> None:
    depth = np.linspace(0.5, 4, 64 * 48, dtype=np.float32)
    preview = opened(shown(depth, {"primitive": "depth", "width": 64, "height": 48}))
    assert preview[1, 1, 0] > preview[46, 60, 0]  # near is bright
    masks = np.zeros((2, 48, 64), np.uint8)
    masks[0, :20], masks[1, 30:] = 1, 1
    pixels = opened(shown(masks.reshape(-1), {"primitive": "masks", "width": 64, "height": 48}))
    assert len({tuple(pixels[row, 30] // 32) for row in (5, 25, 40)}) == 3


def test_a_depth_that_is_not_known_is_black_and_a_far_one_is_not() -> None:
    depth = np.full((48, 64), 4.0, np.float32)
    depth[:16], depth[16:32, :32], depth[16:32, 32:] = 0.0, np.nan, np.inf
    pixels = opened(shown(depth.reshape(-1), {"primitive": "depth", "width": 64, "height": 48}))
    assert pixels[:30].max() < 15 and pixels[34:].min() > 200


def test_an_image_file_that_is_too_large_is_not_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    data = np.frombuffer(shown(red(16, 16), {"width": 16, "height": 16}).body, np.uint8)
    monkeypatch.setattr(pictures, "MAX_FILE", len(data))
    assert shown(data).kind == "image"
    monkeypatch.setattr(pictures, "MAX_FILE", len(data) - 1)
    preview = shown(data, {"encoding": "jpeg"})
    assert preview.kind == "curve" and "is too large for a preview" in preview.head["hint"]


def test_a_pixel_has_its_values_and_a_place_outside_has_none() -> None:
    size = {"width": 3, "height": 2}
    depth = message_of(np.arange(6, dtype=np.uint16) * 500, {**size, "primitive": "depth"}, 1, T0)
    pixels = message_of(np.arange(18, dtype=np.uint8), {**size, "encoding": "rgb8"}, 1, T0)
    for message, text in ((depth, "2.500 m"), (pixels, "RGB 15 16 17")):
        assert pictures.pixel_text("a/out", message, 2, 1) == text
        for outside in ((3, 0), (0, 2), (-1, 0), (0, -1)):
            assert pictures.pixel_text("a/out", message, *outside) == "", outside


# ------------------------------------------------------------------------------------- boxes


def test_boxes_of_published_nodes() -> None:
    value = pa.array(
        [{"bbox": [10.0, 20, 30, 60, 0, 0, 4, 4], "conf": [0.9, 0.5], "labels": ["cat", "dog"]}]
    )
    preview = shown(value, {"format": "xyxy", "primitive": "boxes2d"})
    assert preview.head["boxes"] == [
        [10, 20, 20, 40, "cat 90%", "cat", ""],
        [0, 0, 4, 4, "dog 50%", "dog", ""],
    ]
    assert shown(value, name="yolo/bbox").head["boxes"] == preview.head["boxes"]  # by its name


def test_detections_in_rows_of_six() -> None:
    # As many numbers as three boxes of four.
    value = pa.array([10.0, 20, 30, 60, 0.9, 2, 0, 0, 4, 4, 0.5, 0], pa.float32())
    preview = shown(value, name="detector/op/bbox")
    assert preview.head["boxes"] == [
        [10, 20, 20, 40, "2 90%", "2", ""],
        [0, 0, 4, 4, "0 50%", "0", ""],
    ]
    named = shown(value, {"class_names": ["cup", "saucer", "spoon"]}, name="detector/op/bbox").head["boxes"]
    assert [box[4:6] for box in named] == [["spoon 90%", "spoon"], ["cup 50%", "cup"]]
    said = shown(value, {"format": "xyxy"}, name="detector/op/bbox").head["boxes"]
    assert len(said) == 3, "what the sender says counts"
    pixels = pa.array([10.0, 20, 30, 60, 70, 80, 90, 99, 15, 25, 35, 65], pa.float32())
    assert len(shown(pixels, name="detector/op/bbox").head["boxes"]) == 3


def test_boxes_by_declared_type() -> None:
    box = {"x": 1.0, "y": 2.0, "width": 3.0, "height": 4.0, "confidence": 0.25, "label": "arm"}
    wanted = [[1, 2, 3, 4, "arm 25%", "arm", ""]]
    assert shown([box], declared=f"{VISION}/BoundingBox").head["boxes"] == wanted
    assert shown([{"boxes": [box]}], declared=f"{VISION}/Detection").head["boxes"] == wanted


def test_boxes_keep_the_colours_of_their_sender() -> None:
    value = {"bbox": [10.0, 20.0, 30.0, 60.0], "labels": ["cat"], "colors": [255, 128, 0]}
    (box,) = shown([value], {"format": "xyxy", "primitive": "boxes2d"}).head["boxes"]
    assert box[4:] == ["cat", "cat", "#ff8000"]


# ------------------------------------------------------------------------------ numbers, tables


def test_boxes_are_recognised_by_their_fields() -> None:
    place = {"x": 1.0, "y": 2.0, "width": 3.0, "height": 4.0}
    assert shown([place]).head["boxes"] == [[1, 2, 3, 4, "", "", ""]]
    full = {**place, "confidence": 0.5, "label": "cat"}
    assert (
        shown([full, full], {"width": 640, "height": 480}).head["boxes"]
        == [[1, 2, 3, 4, "cat 50%", "cat", ""]] * 2
    )
    assert shown([{"boxes": [full]}]).head["boxes"] == [[1, 2, 3, 4, "cat 50%", "cat", ""]]
    assert shown([{"x": 1.0, "y": 2.0, "width": 3.0}]).kind == "table"
    assert shown([{**place, "x": "left"}]).kind == "table"


def test_few_numbers_are_followed_and_many_are_a_curve() -> None:
    assert shown([1.5]).head == {"names": [], "values": [1.5]}
    assert shown([1, 2, float("nan")]).head["values"] == [1, 2, None]
    assert shown([True]).head["values"] == [1]
    curve = np.zeros(1_000_003)
    curve[700_000:700_100] = 9.0
    preview = shown(curve)
    assert preview.kind == "curve" and len(preview.head["curve"]) <= MAX_CURVE + 2
    assert preview.head["greatest"] == 9.0 and max(preview.head["curve"]) == 9.0
    level = shown(np.full(MAX_CURVE + 1, 5.0)).head["curve"]
    assert set(level) == {5.0}, "nothing is added at the end"
    assert shown([float(n) for n in range(20)]).head["curve"] == [float(n) for n in range(20)]


def test_structs_of_numbers_by_declared_type_are_followed() -> None:
    twist = [{"linear": {"x": 1.0, "y": 0.0, "z": 0.0}, "angular": {"x": 0.0, "y": 0.0, "z": 2.0}}]
    xyz = pa.struct([(axis, pa.float64()) for axis in "xyz"])
    of_twist = pa.struct([("linear", xyz), ("angular", xyz)])  # pyarrow may sort what it infers
    preview = shown(pa.array(twist, of_twist), declared="std/control/v1/Twist")
    assert preview.kind == "series" and preview.head["values"] == [1, 0, 0, 0, 0, 2]
    assert preview.head["names"][0] == "linear.x"
    joints = [{"names": ["a", "b"], "positions": [0.1, 0.2], "velocities": [], "efforts": []}]
    assert shown(joints, declared="std/control/v1/JointState").head == {
        "names": ["a", "b"],
        "values": [0.1, 0.2],
    }
    many = [{"names": [f"j{n}" for n in range(99)], "positions": [0.5] * 99}]
    head = shown(many, declared="std/control/v1/JointState").head
    assert len(head["names"]) == len(head["values"]) == MAX_SERIES


def test_structs_are_tables_and_texts_are_texts() -> None:
    preview = shown([{"a": n, "b": {"c": "x"}} for n in range(MAX_ROWS + 10)])
    assert preview.kind == "table" and preview.head["columns"] == ["a", "b"]
    assert preview.head["rows"][3] == [3, {"c": "x"}] and len(preview.head["rows"]) == MAX_ROWS
    assert shown(["hello", None]).head["texts"] == ["hello", ""]
    assert len(shown(["ä" * 10 * MAX_TEXT]).head["texts"][0]) == MAX_TEXT
    assert shown([[{"deep": 1}], None]).head["values"] == [[{"deep": 1}], None]
    assert shown(pa.nulls(3)).head["values"] == [None] * 3
    assert shown(pa.array(["b", "b"]).dictionary_encode()).head["texts"] == ["b", "b"]


def test_points() -> None:
    points = np.arange(3 * 3 * MAX_POINTS, dtype=np.float32)
    preview = shown(points, {"primitive": "points3d"})
    assert preview.head["count"] == 3 * MAX_POINTS and len(preview.body) <= 12 * MAX_POINTS
    kind = pa.struct([("points", pa.large_binary()), ("width", pa.uint32()), ("height", pa.uint32())])
    cloud = np.zeros((10, 4), np.float32)
    cloud[:, 2] = 7
    value = pa.array([{"points": cloud.tobytes(), "width": 10, "height": 1}], kind)
    preview = shown(value, declared=f"{MEDIA}/PointCloud")
    assert np.frombuffer(preview.body, np.float32).reshape(-1, 3)[4].tolist() == [0, 0, 7]
    holes = np.array([1, 2, 3, np.nan, 5, 6, 7, 8, np.inf, 9, 9, 9], np.float32)
    preview = shown(holes, {"primitive": "points3d"})
    assert np.frombuffer(preview.body, np.float32).tolist() == [1, 2, 3, 9, 9, 9]


@pytest.mark.parametrize(
    ("value", "metadata", "declared"),
    [
        ([1, 2, 3], {"width": 640, "height": 480}, ""),
        ([1, 2, 3], {"primitive": "nonsense"}, ""),
        ([1, 2, 3], {"primitive": "boxes2d"}, ""),
        ([1, 2, 3], {"width": "wide", "height": None, "encoding": "bgr8"}, ""),
        ([1, 2, 3], {}, f"{MEDIA}/Image"),
        ([1, 2, 3], {}, "my/own/Type"),
    ],
)
def test_a_message_that_belies_its_metadata_is_shown_by_its_type(
    value: Any, metadata: dict[str, Any], declared: str
) -> None:
    assert shown(value, metadata, declared=declared).kind == "series"


def test_nothing_is_shown_as_nothing() -> None:
    for empty in (
        pa.array([], pa.float32()),
        pa.array([], pa.utf8()),
        pa.array([], pa.struct([("a", pa.int8())])),
    ):
        for declared in ("", f"{MEDIA}/Image", "std/control/v1/Twist"):
            assert shown(empty, declared=declared).kind in ("values", "text", "table")


# --------------------------------------------------------------------- the previews of one topic


class Clock:
    """What `time` has, on a clock of the test's: a preview takes no time, unless the test says so."""

    def __init__(self) -> None:
        self.now = 100.0
        self.worked = 0.0

    def monotonic(self) -> float:
        return self.now

    def thread_time(self) -> float:
        return self.worked


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(topics, "time", clock)
    return clock


def number(value: float, owner: object = None) -> Message:
    """Return a message that belongs into a curve; with an ``owner``, its body stays with the sender."""
    sent = message_of(np.array([value]), {}, 1, T0)
    return sent if owner is None else kept_by(owner, sent)


def kept_by(owner: object, sent: Message) -> Message:
    memory = np.frombuffer(sent.head, np.uint8)
    return Message(sent.head, memory.ctypes.data, (owner, memory))


def curve(topic: PreviewTopic) -> list[float] | None:
    """Return the values of the next preview, None if there is none."""
    preview = topic.preview()
    if preview is None:
        return None
    assert preview.adds, "it goes on where the last one ended"
    return [values[0] for _, values in json.loads(preview.head)["steps"]]


def begun_curve() -> PreviewTopic:
    """Return a topic that is known to be a curve."""
    topic = PreviewTopic("a/out", "")
    topic.take(number(0))
    assert curve(topic) == [0] and topic.needs_all
    return topic


@pytest.mark.usefixtures("clock")
def test_a_curve_has_each_value_once() -> None:
    topic = begun_curve()
    assert curve(topic) is None
    for value in (1, 2, 3):
        topic.take(number(value))
    assert curve(topic) == [1, 2, 3]
    assert curve(topic) is None


@pytest.mark.usefixtures("clock")
def test_of_too_many_values_and_of_large_messages_the_last_one_is_shown() -> None:
    topic = begun_curve()
    for value in range(MAX_STEPS + 50):
        topic.take(number(value))
    assert curve(topic) == [*range(1, MAX_STEPS), MAX_STEPS + 49]
    for value in range(3):
        topic.take(number(value, owner=object()))
    assert curve(topic) == [2]


@pytest.mark.usefixtures("clock")
def test_a_topic_may_change_from_numbers_to_something_else() -> None:
    topic = begun_curve()
    topic.take(number(1))
    topic.take(message_of(pa.array(["done"]), {}, 2, T0))
    preview = topic.preview()
    assert preview is not None and not preview.adds
    head = json.loads(preview.head)
    assert (head["kind"], head["texts"], "steps" in head) == ("text", ["done"], False)
    assert topic.preview() is None and not topic.needs_all


def test_a_preview_that_took_long_is_followed_by_a_longer_pause(clock: Clock) -> None:
    topic = PreviewTopic("a/out", "")
    topic.take(message_of(red(4, 2), {"width": 4, "height": 2}, 1, T0))
    clock.thread_time = iter((1.0, 1.5)).__next__  # type: ignore[method-assign]
    assert topic.preview() is not None
    topic.take(message_of(red(4, 2), {"width": 4, "height": 2}, 2, T0))
    clock.now += 0.5 * topics.REST - 0.01
    assert topic.preview() is None
    clock.thread_time = lambda: 2.0  # type: ignore[method-assign]
    clock.now += 0.02
    assert topic.preview() is not None


@pytest.mark.parametrize("shown_first", [False, True])
def test_the_memory_of_a_sender_is_free_once_its_message_was_shown(shown_first: bool) -> None:
    class Owner: ...

    owner = Owner()
    gone = weakref.ref(owner)
    topic = PreviewTopic("a/out", "")
    topic.take(number(1, owner))
    del owner
    assert gone() is not None
    if shown_first:
        assert topic.preview() is not None
    else:
        topic.release()
    assert gone() is None
    assert topic.preview() is None


def test_a_fault_in_a_preview_spoils_only_this_preview(monkeypatch: pytest.MonkeyPatch) -> None:
    topic = PreviewTopic("a/out", "")
    with monkeypatch.context() as patched:
        patched.setattr("dora.observe.preview.render._by_arrow_type", None)
        topic.take(number(1))
        preview = topic.preview()
        assert preview is not None
        problem = json.loads(preview.head)["problem"]
        assert problem.startswith("it cannot be shown: TypeError: ")


def test_a_message_has_the_time_of_its_frame_or_of_its_sending() -> None:
    taken = datetime.fromtimestamp(5, UTC)
    for metadata, stamp in (({"timestamp": taken}, 5_000_000), ({}, T0 // 1000)):
        message = message_of(np.array([1.0]), metadata, 1, T0)
        assert topics.describe("a/out", "", message).head["stamp"] == stamp
        assert topics.stamp_of(message) == stamp
