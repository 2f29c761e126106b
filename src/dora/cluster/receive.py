"""The other end of a copy: ``dora cluster receive NAME``, run over ssh on a machine of the cluster.

It prints a line of JSON that says where the copy is and which files it has; reads one that says which to
remove, and then a tar archive of the new ones; and prints an empty object when all is done. Only files of
the copy are touched; what nodes have written beside them stays.
"""

from __future__ import annotations

import fcntl
import os
import tarfile
from typing import BinaryIO, Final

import msgspec

from dora.cluster.folder import Entry
from dora.coordinator.places import data_folder
from dora.errors import DoraError

_MANIFEST: Final = ".dora-copy.json"


class Present(msgspec.Struct, frozen=True):
    """What there is of a copy."""

    folder: str
    files: dict[str, Entry]


class Wanted(msgspec.Struct, frozen=True):
    """What becomes of it: ``files`` are all that it has in the end."""

    files: dict[str, Entry]
    remove: list[str]


def receive(name: str, given: BinaryIO, answers: BinaryIO) -> None:
    """Bring the copy of this name up to date; raises `DoraError`."""
    if not name or name.startswith(".") or "/" in name:
        raise DoraError(f"`{name}` is no name of a copy")
    folder = os.path.join(data_folder(), "dataflows", name)
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        with open(os.path.join(folder, ".dora-copy.lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # a host may be more than one machine of the cluster
            _update(folder, given, answers)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise DoraError(f"cannot write the copy in {folder}: {error.strerror}{where}") from None
    except (msgspec.DecodeError, tarfile.TarError, EOFError) as error:
        raise DoraError(f"the copy in {folder} is not complete: {error}") from None


def _update(folder: str, given: BinaryIO, answers: BinaryIO) -> None:
    _tell(answers, Present(folder, _present(folder)))
    wanted = msgspec.json.decode(given.readline(), type=Wanted)
    # Until it is complete, nothing is known of the files that are written now.
    _write_manifest(folder, {})
    for path in wanted.remove:
        _remove(folder, path)
    with tarfile.open(fileobj=given, mode="r|") as archive:
        for member in archive:
            _write(folder, member, archive)
    _write_manifest(folder, wanted.files)
    _tell(answers, {})


def _present(folder: str) -> dict[str, Entry]:
    """Return the files of the copy that are still as they were written."""
    try:
        with open(os.path.join(folder, _MANIFEST), "rb") as file:
            known = msgspec.json.decode(file.read(), type=dict[str, Entry])
    except (FileNotFoundError, msgspec.DecodeError):
        return {}
    found = {}
    for path in known:
        try:
            about = os.lstat(_inside(folder, path))
        except (FileNotFoundError, NotADirectoryError):
            continue
        found[path] = (about.st_size, about.st_mtime_ns, about.st_mode & 0o777)
    return found


def _write_manifest(folder: str, files: dict[str, Entry]) -> None:
    path = os.path.join(folder, _MANIFEST)
    with open(f"{path}.new", "wb") as file:
        file.write(msgspec.json.encode(files))
    os.replace(f"{path}.new", path)


def _inside(folder: str, path: str) -> str:
    """Return where a file of the copy is; raises `DoraError` for a path that leads out of its folder."""
    parts = path.split("/")
    if path.startswith("/") or any(part in ("", ".", "..") for part in parts):
        raise DoraError(f"`{path}` is no file of a copy")
    whole = os.path.join(folder, *parts)
    top = os.path.realpath(folder)
    if os.path.commonpath([top, os.path.realpath(os.path.dirname(whole))]) != top:
        raise DoraError(f"`{path}` leads out of the copy")
    return whole


def _remove(folder: str, path: str) -> None:
    whole = _inside(folder, path)
    try:
        os.unlink(whole)
        while (whole := os.path.dirname(whole)) != folder:
            os.rmdir(whole)
    except OSError:
        pass  # gone already, or the folder has other files


def _write(folder: str, member: tarfile.TarInfo, archive: tarfile.TarFile) -> None:
    source = archive.extractfile(member)
    if source is None:
        raise DoraError(f"`{member.name}` is no file")
    whole = _inside(folder, member.name)
    os.makedirs(os.path.dirname(whole), exist_ok=True)
    unfinished = f"{whole}.dora-copy"
    with open(unfinished, "wb") as file:
        while part := source.read(1 << 20):
            file.write(part)
    os.chmod(unfinished, member.mode & 0o777)
    time_ns = int(member.pax_headers["DORA.time"])
    os.utime(unfinished, ns=(time_ns, time_ns))
    os.replace(unfinished, whole)


def _tell(answers: BinaryIO, value: object) -> None:
    answers.write(msgspec.json.encode(value) + b"\n")
    answers.flush()
