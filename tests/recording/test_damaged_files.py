"""Recordings that somebody has changed end no command with a crash or a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from damaged_files import faults, replaced, without_checksums
from recorded_files import T0, write_recording
from rounds import ROUNDS

from dora.cli.main import run_command_line
from dora.recording.mcap.info import trouble
from dora.recording.opening import open_recording
from dora.wire.event_log import EntryKind, pack_entry

HERE = Path(__file__).parent
PYARROW = int(pa.__version__.partition(".")[0])
VIEW = pa.string_view() if PYARROW >= 22 else pa.large_string()  # older ones write no views to Parquet
TEXTS = ["first one", "second one", "third one"]
FLOW = {
    "nodes": [
        {"id": "camera", "path": "camera.py", "outputs": ["image"]},
        {"id": "talk", "path": "talk.py", "outputs": ["text", "mode", "state", "pair"]},
        {"id": "plan", "path": "plan.py", "inputs": {"text": "talk/text"}},
    ]
}
MESSAGES = [
    ("camera/image", 0.0, np.arange(12, dtype=np.uint8), {"encoding": "bgr8", "width": 2, "height": 2}),
    ("talk/text", 0.1, pa.array(TEXTS)),
    ("talk/mode", 0.2, pa.array(["fast", "slow", "fast", "slow", "slow"]).dictionary_encode()),
    ("talk/state", 0.3, pa.array([{"name": "a", "angles": [1.0, None]}, None])),
    ("talk/pair", 0.4, pa.array([["x", "yy"], None, ["zzz"]])),
    ("talk/pair", 0.5, pa.nulls(3)),
    ("talk/text", 0.6, pa.array([b"a", b"bb"], pa.large_binary())),
    ("talk/text", 0.7, pa.array(["a", "b"], VIEW)),
]
ORDER = pack_entry(EntryKind.BEGIN, 0, T0, 0, b"\x81\xa4text\xa9talk/text") + pack_entry(
    EntryKind.MESSAGE, 0, T0, 1
)


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    return write_recording(
        tmp_path / "whole.mcap", MESSAGES, dataflow=FLOW, orders={"plan": ORDER}, name="lab"
    )


def test_the_changes_are_noticed_by_no_checksum(recording: Path) -> None:
    recording.write_bytes(without_checksums(recording.read_bytes()))
    with open_recording(str(recording)) as opened:
        assert opened.complete
        assert len(list(opened.messages())) == len(MESSAGES)


def offsets(*numbers: int) -> bytes:
    return np.array(numbers, np.int32).tobytes()


CRAFTED = {
    "a_string_that_ends_far_away": (offsets(0, 9, 19, 28), offsets(0, 9, 19, 0x7000_0000)),
    "a_string_far_away_between_others": (offsets(0, 9, 19, 28), offsets(0, 9, 0x7000_0000, 28)),
    "a_string_that_begins_before": (offsets(0, 9, 19, 28), offsets(-0x7000_0000, 9, 19, 28)),
    "a_list_that_ends_far_away": (offsets(0, 2, 2, 3), offsets(0, 2, 2, 0x7000_0000)),
    "an_index_without_a_word": (offsets(0, 1, 0, 1, 1), offsets(0, 1, 0, 1, 0x7000_0000)),
    "text_that_is_no_utf8": (b"second one", b"second \xffne"),
}


@pytest.mark.processes
@pytest.mark.parametrize("name", CRAFTED)
@pytest.mark.parametrize("command", ["diff", "export"])
def test_wild_offsets_are_a_sentence_and_no_crash(recording: Path, name: str, command: str) -> None:
    crafted = recording.with_name("crafted.mcap")
    crafted.write_bytes(replaced(recording.read_bytes(), *CRAFTED[name]))
    arguments = {
        "diff": ["diff", str(crafted), str(recording)],
        "export": ["export", str(crafted), "--parquet", str(recording.parent / "out")],
    }
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-m", "dora", *arguments[command]],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "the payload of a message cannot be decoded" in done.stdout + done.stderr


def test_a_time_after_the_end_of_all_clocks_is_a_sentence(recording: Path, tmp_path: Path) -> None:
    late = write_recording(
        tmp_path / "late.mcap", [*MESSAGES, ("talk/text", 1e10, pa.array(["late"]))], dataflow=FLOW
    )
    assert faults(tmp_path, recording, late) == []
    with open_recording(str(late)) as opened:
        assert len(list(opened.messages())) < len(MESSAGES) + 1
        assert "a message claims to be from after the year 2262" in trouble(opened)


def test_a_player_sends_no_wild_offsets(recording: Path) -> None:
    crafted = recording.with_name("crafted.mcap")
    crafted.write_bytes(replaced(recording.read_bytes(), *CRAFTED["a_string_that_ends_far_away"]))
    with open_recording(str(crafted)) as opened:
        from typing import Any, cast

        from dora.errors import DoraError
        from dora.recording.replay.player import Player

        player = Player.__new__(Player)
        (recorded,) = [each for each in opened.messages(["talk/text"]) if each.sequence == 1]
        with pytest.raises(DoraError, match="message 1 of `talk/text` is damaged"):
            player._send(cast(Any, None), recorded)


def test_a_chunk_larger_than_its_declared_size_is_not_unpacked() -> None:
    import lz4.frame
    import zstandard
    from mcap.exceptions import McapError

    from dora.recording.mcap.file import unpack

    for name, packed in (
        ("zstd", zstandard.compress(bytes(1 << 20))),
        ("lz4", lz4.frame.compress(bytes(1 << 20))),
        ("", bytes(1 << 20)),
    ):
        assert len(unpack(name, packed, 1 << 20)) == 1 << 20
        for claimed in (1000, 0, 1 << 21, 1 << 62):
            with pytest.raises(McapError, match="claims"):
                unpack(name, packed, claimed)


def test_compressed_bodies_and_lengths_without_bytes_are_refused() -> None:
    from dora.wire.decode import PayloadError, decode_arrow
    from dora.wire.message import Encoding, pack_head
    from dora.wire.untrusted import UntrustedMessage

    def message(batch: pa.RecordBatch, **options: object) -> UntrustedMessage:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
            writer.write_batch(batch)
        body = sink.getvalue().to_pybytes()
        return UntrustedMessage(pack_head(Encoding.STREAM, b"", b"", len(body), 1, 1) + body)

    zeros = pa.record_batch([pa.array(np.zeros(1 << 20))], ["x"])
    for compression in ("zstd", "lz4"):
        with pytest.raises(PayloadError, match="its body is compressed"):
            decode_arrow(message(zeros, compression=compression))
    assert len(decode_arrow(message(zeros))) == 1 << 20
    nulls = pa.record_batch([pa.Array.from_buffers(pa.null(), 1 << 30, [None])], ["x"])
    with pytest.raises(PayloadError, match="it claims 1,073,741,824 values in 0 bytes"):
        decode_arrow(message(nulls))
    assert len(decode_arrow(message(pa.record_batch([pa.nulls(1000)], ["x"])))) == 1000


def run_mutations(recording: Path, count: int, seed: int) -> None:
    whole = recording.with_name("other.mcap")
    whole.write_bytes(recording.read_bytes())
    done = subprocess.run(
        [
            *(sys.executable, "-X", "faulthandler", str(HERE / "damaged_files.py")),
            *(str(recording.parent), str(recording), str(whole), str(count), str(seed)),
        ],
        env={**os.environ, "PYTHONPATH": str(HERE)},
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-5000:]}\n{done.stderr[-5000:]}"
    assert done.stdout.split()[-1] == str(count - 1)


@pytest.mark.slow
@pytest.mark.processes
def test_no_changed_byte_crashes_a_command(recording: Path) -> None:
    run_mutations(recording, 50, 1)


@pytest.mark.processes
@pytest.mark.fuzz
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(2, 10))
def test_no_changed_byte_crashes_a_command_for_long(recording: Path, seed: int) -> None:
    run_mutations(recording, 20 * ROUNDS, seed)


# ----------------------------------------------------------------------------- cut off


@pytest.fixture
def cut(recording: Path) -> Path:
    """A recording whose recorder was killed."""
    path = recording.with_name("cut.mcap")
    write_recording(path, MESSAGES, dataflow=FLOW, ends=False)
    return path


@pytest.mark.parametrize("allowed", [False, True])
def test_the_readable_part_of_a_cut_file_is_exported(
    cut: Path, allowed: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    out = cut.parent / "out"
    option = ["--allow-incomplete"] if allowed else []
    assert run_command_line(["export", str(cut), "--parquet", str(out), *option]) == (0 if allowed else 1)
    assert (out / "talk/pair.parquet").exists()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{'warning' if allowed else 'error'}: {cut}: the file was cut off")
    assert "it was read up to 0.700 s" in line
    assert ("--allow-incomplete" in line) != allowed


def test_a_truncated_file_differs_from_every_file_unless_accepted(
    cut: Path, recording: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command_line(["diff", str(recording), str(cut)]) == 2
    captured = capsys.readouterr()
    assert "equal: 8 messages" in captured.out
    assert f"error: {cut}: the file was cut off" in captured.err
    assert run_command_line(["diff", str(recording), str(cut), "--allow-incomplete"]) == 0
    assert f"warning: {cut}: the file was cut off" in capsys.readouterr().err


def test_info_reports_a_truncated_file_and_succeeds(cut: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["info", str(cut)]) == 0
    assert "Complete" in (out := capsys.readouterr().out)
    assert "no: the file was cut off" in out


def test_a_whole_file_in_which_messages_are_missing_is_exported_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_recording(tmp_path / "lost.mcap", MESSAGES, lost=2)
    with open_recording(str(path)) as opened:
        assert "messages are missing" in trouble(opened)
    assert run_command_line(["export", str(path), "--parquet", str(tmp_path / "out")]) == 0
    assert f"warning: {path}: " in capsys.readouterr().err
