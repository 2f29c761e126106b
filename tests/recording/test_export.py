"""`dora export`: every message comes out, whatever its type."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from recorded_files import T0, write_recording

from dora.cli.main import run_command_line
from dora.recording import export_parquet

STATE = pa.struct({"name": pa.string(), "angles": pa.list_(pa.float64())})
MESSAGES = [
    ("camera/image", 0.0, np.zeros(12, np.uint8), {"encoding": "bgr8", "width": 2, "height": 2}),
    ("arm/state", 0.1, pa.array([{"name": "a", "angles": [1.0, None]}], STATE)),
    ("arm/state", 0.2, pa.array([{"name": None, "angles": []}, None], STATE)),
    ("arm/op/mode", 0.3, pa.array(["fast", "slow", "fast"]).dictionary_encode()),
    ("talk/text", 0.4, pa.array(["hello"])),
    ("talk/text", 0.5, pa.array([1, 2])),
    ("talk/text", 0.6, pa.array(["again"])),
    ("timer/tick", 0.7, pa.nulls(0)),
    ("camera/image", 0.8, b""),
    ("camera/image", 0.9, np.zeros((2, 2, 3), np.uint8), {"encoding": "rgb8"}),
]


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    return write_recording(tmp_path / "run.mcap", MESSAGES)


def test_parquet(recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "out"
    assert run_command_line(["export", str(recording), "--parquet", str(folder)]) == 0
    assert f"{folder}/talk/text.2.parquet: 1 message\n" in capsys.readouterr().out
    state = pq.read_table(folder / "arm/state.parquet")
    assert state.column("value").to_pylist() == [each[2].to_pylist() for each in MESSAGES[1:3]]
    assert state.column("time").cast(pa.int64()).to_pylist() == [T0 + 100_000_000, T0 + 200_000_000]
    assert pq.read_table(folder / "arm/op/mode.parquet").column("value").to_pylist() == [
        ["fast", "slow", "fast"]
    ]
    assert pq.read_table(folder / "talk/text.parquet").column("value").to_pylist() == [["hello"], ["again"]]
    images = pq.read_table(folder / "camera/image.parquet")
    assert images.column("metadata").to_pylist()[:2] == [
        '{"encoding": "bgr8", "width": 2, "height": 2}',
        "{}",
    ]
    assert images.column("value").to_pylist() == [bytes(12), b"", bytes(12)]
    assert images.column("shape").to_pylist() == [None, None, [2, 2, 3]]


@pytest.mark.parametrize(("limit", "most"), [("_ROWS", 2), ("_BYTES", 16)])
def test_so_many_messages_or_bytes_are_in_memory_at_a_time(
    tmp_path: Path, limit: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_parquet, limit, most)
    messages = [("arm/n", number / 10, np.array([number])) for number in range(5)]
    path = write_recording(tmp_path / "run.mcap", messages)
    assert run_command_line(["export", str(path), "--parquet", str(tmp_path / "out")]) == 0
    with pq.ParquetFile(tmp_path / "out/arm/n.parquet") as file:
        sizes = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
        table = file.read()
    assert sizes == [2, 2, 1]
    assert table.column("value").to_pylist() == [[number] for number in range(5)]
    assert table.column("sequence").to_pylist() == [1, 2, 3, 4, 5]


def test_bytes_of_which_some_are_missing_are_a_list(tmp_path: Path) -> None:
    values = pa.array([1, None, 3], pa.uint8())
    path = write_recording(tmp_path / "run.mcap", [("arm/n", 0.0, b"whole"), ("arm/n", 0.1, values)])
    assert run_command_line(["export", str(path), "--parquet", str(tmp_path / "out")]) == 0
    (whole,) = pq.read_table(tmp_path / "out/arm/n.parquet").column("value").to_pylist()
    (parts,) = pq.read_table(tmp_path / "out/arm/n.2.parquet").column("value").to_pylist()
    assert (whole, parts) == (b"whole", [1, None, 3])


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_an_output_with_the_name_of_another_ones_second_file_keeps_its_own(
    tmp_path: Path, order: tuple[int, ...]
) -> None:
    messages = [("arm/n", np.array([1])), ("arm/n", pa.array(["two"])), ("arm/n.2", np.array([3]))]
    found = [(messages[number][0], at / 10, messages[number][1]) for at, number in enumerate(order)]
    path = write_recording(tmp_path / "run.mcap", found)
    assert run_command_line(["export", str(path), "--parquet", str(tmp_path / "out")]) == 0
    values = {
        file.name: pq.read_table(file).column("value").to_pylist()
        for file in (tmp_path / "out/arm").iterdir()
    }
    assert values == {"n.parquet": [[1]], "n.3.parquet": [["two"]], "n.2.parquet": [[3]]}


def test_metadata_is_json_whatever_its_numbers_are(tmp_path: Path) -> None:
    path = tmp_path / "run.mcap"
    write_recording(path, [("arm/n", 0.0, np.array([1]), {"gain": math.nan, "limits": [-math.inf, 1.5]})])
    assert run_command_line(["export", str(path), "--parquet", str(tmp_path / "out")]) == 0
    (metadata,) = pq.read_table(tmp_path / "out/arm/n.parquet").column("metadata").to_pylist()
    assert metadata == '{"gain": "nan", "limits": ["-inf", 1.5]}'


def test_a_file_is_written_over_only_with_force(recording: Path, tmp_path: Path) -> None:
    command = ["export", str(recording), "--parquet", str(tmp_path / "out")]
    assert [run_command_line(command) for _ in range(2)] == [0, 1]
    assert run_command_line([*command, "--force"]) == 0


def test_a_folder_relative_to_the_working_folder(
    recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command_line(["export", str(recording), "--parquet", "tables/new"]) == 0
    assert (tmp_path / "tables/new/camera/image.parquet").is_file()


def test_a_file_that_exists_is_not_touched(
    recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "arm").mkdir()
    (tmp_path / "arm/state.parquet").write_text("mine")
    assert run_command_line(["export", str(recording), "--parquet", str(tmp_path)]) == 1
    assert "exists already" in capsys.readouterr().err
    assert (tmp_path / "arm/state.parquet").read_text() == "mine"


def test_export_requires_a_format(recording: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["export", str(recording)]) == 2
    assert run_command_line(["export", str(recording), "--parquet", "x", "--topics", "arm/stat"]) == 1
    assert "did you mean `arm/state`?" in capsys.readouterr().err


def test_rerun(recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rerun")
    path = tmp_path / "run.rrd"
    assert run_command_line(["export", str(recording), "--rerun", str(path)]) == 0
    shown = capsys.readouterr()
    assert shown.out == f"{path}: 4 messages\n"  # an image, two texts, two numbers
    assert "1 message of arm/op/mode cannot be drawn" in shown.err
    assert path.stat().st_size > 1000


def test_the_names_of_a_recording_do_not_lead_out_of_the_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_recording(tmp_path / "run.mcap", [("../../outside", 0.0, b"one")])
    assert run_command_line(["export", str(path), "--parquet", str(tmp_path / "a/b")]) == 1
    assert "`../../outside` is no name of an output" in capsys.readouterr().err
    assert not (tmp_path / "outside.parquet").exists()


def test_types_that_parquet_lacks_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    union = pa.UnionArray.from_dense(
        pa.array([0, 1], pa.int8()), pa.array([0, 0], pa.int32()), [pa.array([1]), pa.array(["a"])]
    )
    path = write_recording(tmp_path / "run.mcap", [("arm/state", 0.0, union)])
    assert run_command_line(["export", str(path), "--parquet", str(tmp_path / "out")]) == 1
    assert "error: Parquet cannot hold the messages of `arm/state`" in capsys.readouterr().err


def test_a_recording_is_not_written_over(recording: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["export", str(recording), "--rerun", str(recording), "--force"]) == 1
    assert "is the recording itself" in capsys.readouterr().err


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no such device")
def test_a_full_disk_is_reported(recording: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = recording.parent / "out/camera"
    folder.mkdir(parents=True)
    (folder / "image.parquet").symlink_to("/dev/full")
    arguments = ["export", str(recording), "--parquet", str(folder.parent), "--topics", "camera/image"]
    assert run_command_line([*arguments, "--force"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: cannot write to {folder.parent}: ")
    assert "No space left" in error
