"""Copy the folder of a dataflow to a machine; `dora.cluster.receive` is the other end."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import tarfile
import threading
from collections.abc import Mapping, Sequence
from subprocess import Popen
from typing import IO, Any

import msgspec

from dora.cluster.cluster_file import Machine
from dora.cluster.folder import Entry, difference
from dora.cluster.receive import ExpectedFiles, Present
from dora.cluster.scripts import receive_copy
from dora.cluster.ssh import MachineFault, piped, reason
from dora.wire.decoders import from_json


class Copied(msgspec.Struct, frozen=True):
    """Where the copy is on its machine, and how many files and bytes were sent."""

    folder: str
    sent: int
    size: int


def copy_name(folder: str) -> str:
    """Return what the copies of a folder are called: the same each time, and another for each folder."""
    readable = re.sub(r"[^A-Za-z0-9_-]+", "-", os.path.basename(folder)).strip("-") or "dataflow"
    origin = f"{socket.gethostname()}:{folder}"
    return f"{readable[:40]}-{hashlib.sha256(origin.encode()).hexdigest()[:8]}"


def copy_folder(machine: Machine, folder: str, files: Mapping[str, Entry]) -> Copied:
    """Copy what has changed to a machine; raises `MachineFault`.

    What the last copy had and is not there any more is removed.
    """
    process = piped(machine, receive_copy(machine, copy_name(folder)))
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    complaints: list[bytes] = []
    listener = threading.Thread(target=lambda: complaints.append(_all_of(process)), daemon=True)
    listener.start()
    try:
        return _send(machine, process, folder, files)
    except (BrokenPipeError, msgspec.DecodeError):
        _close(process.stdin)
        status = process.wait()
        listener.join()
        said = b"".join(complaints).decode(errors="replace")
        raise MachineFault(machine, reason(machine, status, said)) from None
    except OSError as error:
        why = f"{error.filename}: {error.strerror}" if error.filename else "a file that has just changed"
        raise MachineFault(machine, f"cannot copy {why}; try again") from None
    finally:
        process.kill()
        process.wait()
        _close(process.stdin)
        process.stdout.close()


def _close(stream: IO[bytes]) -> None:
    try:
        stream.close()
    except BrokenPipeError:
        pass  # nobody takes what was still to be sent


def _all_of(process: Popen[Any]) -> bytes:
    assert process.stderr is not None
    said: bytes = process.stderr.read()
    process.stderr.close()
    return said


def _send(machine: Machine, process: Popen[Any], folder: str, files: Mapping[str, Entry]) -> Copied:
    assert process.stdin is not None and process.stdout is not None
    present = from_json(process.stdout.readline(), Present)
    changed, gone = difference(files, present.files)
    size = sum(files[path][0] for path in changed)
    if present.free is not None and size > present.free:
        raise MachineFault(
            machine,
            f"{size:,} bytes are to be copied to {present.folder}, and {present.free:,} are free there",
        )
    process.stdin.write(msgspec.json.encode(ExpectedFiles(dict(files), gone)) + b"\n")
    _send_files(process.stdin, folder, changed, files)
    process.stdin.close()
    from_json(process.stdout.readline(), dict[str, Any])
    return Copied(present.folder, len(changed), size)


def _send_files(stream: IO[bytes], folder: str, paths: Sequence[str], files: Mapping[str, Entry]) -> None:
    with tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for path in paths:
            size, time_ns, mode = files[path]
            member = tarfile.TarInfo(path)
            member.size, member.mode = size, mode
            member.pax_headers = {"DORA.time": str(time_ns)}
            with open(os.path.join(folder, path), "rb") as file:
                archive.addfile(member, file)
