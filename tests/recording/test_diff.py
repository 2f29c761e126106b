"""`dora diff`: where two recordings differ first, and what the exit status says."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pytest
from recorded_files import write_recording

from dora.cli.main import run_command_line
from dora.recording.compare import MessagePlace, Tolerance, compare, of_arrays
from dora.recording.opening import open_recording
from dora.wire.decode import PayloadError

A = [
    ("camera/image", 0.0, b"one"),
    ("detector/boxes", 0.1, [1.0]),
    ("camera/image", 1.0, b"two"),
    ("detector/boxes", 1.1, [2.0]),
]


def _arrays(messages: list[tuple[str, float, object]]) -> list[tuple[str, float, object]]:
    return [(topic, at, pa.array(data) if isinstance(data, list) else data) for topic, at, data in messages]


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    return str(tmp_path / "a.mcap"), str(tmp_path / "b.mcap")


def write(files: tuple[str, str], b: list[tuple[str, float, object]]) -> None:
    write_recording(Path(files[0]), _arrays(A))
    write_recording(Path(files[1]), _arrays(b))


def test_times_and_the_order_of_topics_do_not_count(
    files: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    write(files, [A[0], A[2], (A[1][0], 5.0, A[1][2]), (A[3][0], 6.0, A[3][2])])
    assert run_command_line(["diff", *files]) == 0
    assert "equal: 4 messages in 2 topics" in capsys.readouterr().out


def test_the_first_difference_comes_first(
    files: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    write(files, [A[0], A[1], ("camera/image", 1.0, b"TWO"), ("detector/boxes", 1.1, [2.5])])
    assert run_command_line(["diff", *files]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split(maxsplit=3) == ["camera/image", "2", "1", lines[1][lines[1].index("message") :]]
    assert "message 2 at 1.000 s: [0] is 116 and 84" in lines[1]
    assert lines[2].endswith("message 2 at 1.100 s: [0] is 2.0 and 2.5")
    assert lines[-1] == "The recordings differ in 2 of 2 topics."


def test_a_tolerance(files: tuple[str, str]) -> None:
    write(files, [*A[:3], ("detector/boxes", 1.1, [2.01])])
    assert run_command_line(["diff", *files]) == 1
    assert run_command_line(["diff", *files, "--tolerance", "0.1"]) == 0
    assert run_command_line(["diff", *files, "--tolerance", "1%"]) == 0
    assert run_command_line(["diff", *files, "--tolerance", "0.001", "--tolerance", "0.1%"]) == 1
    assert run_command_line(["diff", *files, "--topics", "camera/image"]) == 0


def test_a_missing_message_is_a_difference(files: tuple[str, str]) -> None:
    write(files, A[:3])
    with open_recording(files[0]) as first, open_recording(files[1]) as second:
        (worst, same) = compare(first, second)
    assert (worst.topic, worst.first_count, worst.second_count, worst.different) == (
        "detector/boxes",
        2,
        1,
        1,
    )
    assert worst.first is not None
    assert worst.first.what == "only the first recording has it"
    assert same.equal


def test_a_missing_topic_is_a_difference(files: tuple[str, str]) -> None:
    write(files, [A[0], A[2]])
    with open_recording(files[0]) as first, open_recording(files[1]) as second:
        assert [topic.equal for topic in compare(first, second)] == [False, True]
        assert [topic.equal for topic in compare(first, second, ["camera/image"])] == [True]
        (missing, _) = compare(second, first)
        assert (missing.first_count, missing.second_count, missing.different) == (0, 2, 2)
        assert missing.first == MessagePlace(1, 0.1, "only the second recording has it, and 1 more")


def test_recordings_that_cannot_be_compared_end_with_two(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(files, list(A))
    (tmp_path / "text").write_text("hello")
    assert run_command_line(["diff", files[0], str(tmp_path / "text")]) == 2
    assert "is no recording" in capsys.readouterr().err
    assert run_command_line(["diff", *files, "--topics", "camera/imag"]) == 2
    assert "did you mean `camera/image`?" in capsys.readouterr().err
    assert run_command_line(["diff", *files, "--tolerance", "much"]) == 2


def test_json(files: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    write(files, [*A[:3], ("detector/boxes", 1.1, [2.5])])
    assert run_command_line(["diff", *files, "-f", "json"]) == 1
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["topic"] == "detector/boxes"
    assert first["first"] == {"message": 2, "time": 1.1, "what": "[0] is 2.0 and 2.5"}
    assert second["equal"] is True


def test_the_larger_tolerance_counts() -> None:
    assert Tolerance(absolute=1.0, relative=0.1).allows(100.0, 109.0)


def test_a_relative_tolerance_is_of_the_first_number() -> None:
    tolerance = Tolerance(relative=0.1)
    for a, b, same in ((100.0, 90.5, True), (90.5, 100.0, False)):
        assert tolerance.allows(a, b) is same
        assert (of_arrays(pa.array([a]), pa.array([b]), tolerance) == "") is same


def test_differences_beyond_the_most_that_are_listed_are_counted(
    files: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dora.recording.compare.MOST_PLACES", 2)
    write_recording(Path(files[0]), [("a/x", float(at), b"one") for at in range(1, 5)])
    write_recording(Path(files[1]), [("a/x", at * 2.0, b"other") for at in range(3)])
    with open_recording(files[0]) as first, open_recording(files[1]) as second:
        (found,) = compare(first, second)
    assert [place.message for place in found.places] == [1, 2]
    assert (found.first_count, found.second_count, found.different) == (4, 3, 4)
    assert found.places[1].time == 1.0, "from the first message of the first recording on"


def test_a_message_without_a_counterpart_is_told_with_its_number(files: tuple[str, str]) -> None:
    write(files, A[:3])
    with open_recording(files[1]) as first, open_recording(files[0]) as second:
        (longer, _) = compare(first, second)
    assert longer.first == MessagePlace(2, 1.1, "only the second recording has it")


@pytest.mark.parametrize("others", [1, 40], ids=["the recording ends", "the topic ends"])
@pytest.mark.parametrize("longer", ["first", "second"])
def test_messages_without_a_counterpart_do_not_fill_the_memory(
    files: tuple[str, str], longer: str, others: int
) -> None:
    long, short = files if longer == "first" else files[::-1]
    ticks = [("clock/tick", float(at), b"") for at in range(40)]
    images = [("camera/image", at + 0.5, bytes(1 << 20)) for at in range(40)]
    write_recording(Path(long), sorted(images + ticks, key=lambda message: message[1]))
    write_recording(Path(short), [images[0], *ticks[:others]])
    with open_recording(files[0]) as first, open_recording(files[1]) as second:
        tracemalloc.start()
        try:
            found = {each.topic: each for each in compare(first, second)}
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 20 << 20
    image, tick = found["camera/image"], found["clock/tick"]
    assert (image.different, tick.different) == (39, 40 - others)
    assert {image.first_count, image.second_count} == {1, 40}
    assert image.first == MessagePlace(2, 1.5, f"only the {longer} recording has it, and 38 more")


def test_messages_that_cannot_be_decoded_are_equal_if_their_bytes_are(
    files: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def difference(*_: object, **__: object) -> str:
        raise PayloadError("it is damaged")

    monkeypatch.setattr("dora.recording.compare.difference", difference)
    write(files, [*A[:3], ("detector/boxes", 1.1, [2.5])])
    with open_recording(files[0]) as first, open_recording(files[1]) as second:
        (boxes, image) = compare(first, second)
    assert boxes.places == [MessagePlace(2, 1.1, "it cannot be compared: it is damaged")]
    assert image.equal
