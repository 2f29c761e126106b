"""The other end of a copy: ``dora cluster receive NAME``, run over ssh on a machine of the cluster.

It prints a line of JSON with the folder of the copy and its files. It reads a line with all files that the
copy has in the end and the files to remove, and then a tar archive of the new ones. It prints an empty
object when all is done. Files that nodes have written beside the copy stay.
"""

from __future__ import annotations

import os
import signal
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, Final, Protocol, cast

import msgspec

from dora.cluster.ssh.folder import (
    OWN_PREFIX,
    Entry,
    copy_path,
    difference,
    inside,
    known_files,
    locked,
    remove_file,
    write_manifest,
)
from dora.cluster.ssh.retention import expected, remove_unused
from dora.errors import DoraError
from dora.wire.decoders import from_json

READ_TIMEOUT: Final = 60
"""Seconds without a byte after which the sender counts as gone: its machine may be cut off."""
_UNFINISHED: Final = f"{OWN_PREFIX}.part"


class Present(msgspec.Struct, frozen=True):
    """The state of a copy, and the bytes for which there is room."""

    folder: str
    files: dict[str, Entry]
    free: int | None = None


class ExpectedFiles(msgspec.Struct, frozen=True):
    """The change of a copy: ``files`` are all that it has in the end."""

    files: dict[str, Entry]
    remove: list[str]


class FileSource(Protocol):
    """The stream from the sender, with the methods of a binary file."""

    def read(self, size: int, /) -> bytes: ...
    def readline(self) -> bytes: ...


class StreamWithTimeout:
    """A `FileSource` that ends this process if nothing arrives within `READ_TIMEOUT`; main thread only."""

    def __init__(self, source: FileSource) -> None:
        self._source = source

    def read(self, size: int, /) -> bytes:
        with _limit():
            return self._source.read(size)

    def readline(self) -> bytes:
        with _limit():
            return self._source.readline()


@contextmanager
def _limit() -> Iterator[None]:
    signal.alarm(READ_TIMEOUT)
    try:
        yield
    finally:
        signal.alarm(0)  # the work on the copy may take longer


def receive(name: str, source: FileSource, answers: BinaryIO) -> None:
    """Bring the copy of this name up to date; raises `DoraError`.

    One that was cut off goes on where it ended. Copies that nobody uses are removed.
    """
    folder = copy_path(name)
    try:
        with locked(folder):  # a host may be more than one machine of the cluster
            with expected(folder):
                _update(folder, source, answers)
            _reply(answers, {})
        remove_unused()
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise DoraError(f"cannot write the copy in {folder}: {error.strerror}{where}") from None
    except (msgspec.DecodeError, tarfile.TarError, EOFError) as error:
        raise DoraError(f"the copy in {folder} is not complete: {error}") from None


def _update(folder: str, source: FileSource, answers: BinaryIO) -> None:
    unfinished = os.path.join(folder, _UNFINISHED)
    try:
        present = _present(folder)
        disk = os.statvfs(folder)
        _reply(answers, Present(folder, present, disk.f_bavail * disk.f_frsize))
        wanted = from_json(source.readline(), ExpectedFiles)
        for path in wanted.remove:  # before anything is written: the disk may be full
            if path in present:
                remove_file(folder, path)
        # Whatever happens from here on, it is known which files are not of nodes.
        write_manifest(folder, {**present, **wanted.files})
        changed, _ = difference(wanted.files, present)
        missing = set(changed)
        with tarfile.open(fileobj=cast(Any, source), mode="r|") as archive:
            for member in archive:
                _write(folder, member, archive, unfinished)
                missing.discard(member.name)
        # For tarfile, an archive that breaks off between two members has ended.
        if missing:
            raise EOFError(f"{len(missing)} of {len(changed)} files did not arrive; try again")
        write_manifest(folder, wanted.files)
    finally:
        if os.path.exists(unfinished):
            os.unlink(unfinished)


def _present(folder: str) -> dict[str, Entry]:
    """Return the files of the copy that are there, as they are now."""
    found = {}
    for path in known_files(folder):
        try:
            about = os.lstat(inside(folder, path))
        except (FileNotFoundError, NotADirectoryError):
            continue
        found[path] = (about.st_size, about.st_mtime_ns, about.st_mode & 0o777)
    return found


def _write(folder: str, member: tarfile.TarInfo, archive: tarfile.TarFile, unfinished: str) -> None:
    content = archive.extractfile(member)
    if content is None:
        raise DoraError(f"`{member.name}` is no file")
    target = inside(folder, member.name)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.lexists(unfinished):
        os.unlink(unfinished)
    with open(unfinished, "xb") as file:
        while part := content.read(1 << 20):
            file.write(part)
    os.chmod(unfinished, member.mode & 0o777)
    time_ns = int(member.pax_headers["DORA.time"])
    os.utime(unfinished, ns=(time_ns, time_ns))
    os.replace(unfinished, target)


def _reply(answers: BinaryIO, value: object) -> None:
    answers.write(msgspec.json.encode(value) + b"\n")
    answers.flush()
