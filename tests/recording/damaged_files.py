"""Recordings that somebody has changed, without the checksums that would show it.

As a program: read recordings with every command, in this process, as one that may crash.
``damaged_files.py FOLDER FIRST SECOND COUNT SEED`` changes bytes of a recording again and again.
"""

from __future__ import annotations

import io
import random
import struct
import sys
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from dora.cli.main import run_command_line
from dora.recording.mcap.format import NotARecording
from dora.recording.opening import open_recording
from dora.wire.decode import BAD_MESSAGE, check

CHUNK, SUMMARY_CHECKSUM = 0x06, -12


def without_checksums(data: bytes) -> bytearray:
    """Return a recording in which no checksum is, which means that there is nothing to compare."""
    changed = bytearray(data)
    changed[SUMMARY_CHECKSUM : SUMMARY_CHECKSUM + 4] = bytes(4)
    position = 8
    while position + 9 <= len(changed) - 8:
        opcode, length = struct.unpack_from("<BQ", changed, position)
        if opcode == CHUNK:
            changed[position + 33 : position + 37] = bytes(4)
        position += 9 + length
    return changed


def replaced(data: bytes, old: bytes, new: bytes) -> bytearray:
    """Return a recording without checksums, in which bytes that come once are others."""
    changed = without_checksums(data)
    assert len(old) == len(new)
    assert changed.count(old) == 1
    place = changed.index(old)
    changed[place : place + len(old)] = new
    return changed


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Return a recording without checksums in which some bytes are others, or it is cut."""
    changed = without_checksums(data)
    for _ in range(chance.randint(1, 6)):
        place = chance.randrange(8, len(changed))
        match chance.randrange(5):
            case 0:
                changed[place] = chance.randrange(256)
            case 1:
                changed[place] ^= 1 << chance.randrange(8)
            case 2:
                width = chance.choice([2, 4, 8])
                changed[place : place + width] = chance.choice([b"\xff", b"\x7f", b"\0"]) * width
            case 3:
                changed[place : place + 4] = chance.randrange(1 << 32).to_bytes(4, "little")
            case 4:
                other = chance.randrange(8, len(changed))
                changed[place : place + 16] = changed[other : other + 16]
    return bytes(changed[: chance.randrange(8, len(changed))] if chance.random() < 0.1 else changed)


def commands(folder: Path, whole: Path, damaged: Path) -> dict[str, Callable[[], Any]]:
    """Return what reads a recording, by name."""

    def run(*arguments: str) -> Callable[[], Any]:
        return lambda: run_command_line([*arguments])

    def played() -> None:
        """Read as the player does."""
        try:
            with open_recording(str(damaged)) as recording:
                for recorded in recording.messages():
                    check(recorded.message)
        except (NotARecording, *BAD_MESSAGE):
            pass

    yaml = str(folder / "replay.yml")
    return {
        "info": run("info", str(damaged)),
        "info as JSON": run("info", str(damaged), "-f", "json"),
        "diff": run("diff", "--metadata", str(damaged), str(whole)),
        "diff the other way": run("diff", "--tolerance", "1%", str(whole), str(damaged)),
        "export": run("export", str(damaged), "--force", "--parquet", str(folder / "out")),
        "replay": run("replay", str(damaged), "--force", "--output-yaml", yaml),
        "player": played,
    }


def faults(folder: Path, whole: Path, damaged: Path) -> list[str]:
    """Return what went wrong in reading a damaged recording: no command may end in a traceback."""
    found = []
    for name, run in commands(folder, whole, damaged).items():
        out, err = io.StringIO(), io.StringIO()
        try:
            with redirect_stdout(out), redirect_stderr(err):
                status = run()
        except BaseException:  # noqa: BLE001 - whatever it is
            found.append(f"{name}: {traceback.format_exc()}")
            continue
        if status not in (None, 0, 1, 2) or "Traceback" in err.getvalue() or "internal" in err.getvalue():
            found.append(f"{name}: {status}: {err.getvalue()}")
    return found


def main() -> int:
    folder, whole, other = map(Path, sys.argv[1:4])
    count, seed = map(int, sys.argv[4:6])
    data = whole.read_bytes()
    chance = random.Random(seed)
    damaged = folder / "damaged.mcap"
    for number in range(count):
        damaged.write_bytes(mutated(data, chance))
        print(number, flush=True)
        if found := faults(folder, other, damaged):
            print(*found, sep="\n")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
