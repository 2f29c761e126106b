"""Copies of dataflows in the data folder of a machine's user, and when they are removed.

A copy of a folder stays as long as the coordinator has a record of a dataflow that ran in it: until
`dora clean`, or until so many later ones have ended that the record is removed. The copy names these
dataflows. A small file for each dataflow and machine names its copies and its coordinator (a host may be
several machines, of several coordinators). So this outlives daemons. A coordinator reports the records that
are removed, now or when the daemon is back.

A copy that has just been made is for a dataflow that is about to start. If none starts within `EXPECTED`,
or the copying was cut off, the copy is unused. Unused copies are removed when a record is, or with the next
copy. Only the copied files are: nodes may have written results beside them.

`dora run --on` has no records. Its process locks the copy for as long as it runs; afterwards the copy is
expected to be used again for some time, so that the next run finds it.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

import msgspec

from dora._paths import data_folder, state_folder
from dora.cluster.coordinator.log_store import remove_logs
from dora.cluster.ssh.folder import (
    LOCK,
    OWN_PREFIX,
    copies_folder,
    copy_of,
    inside,
    is_copy,
    known_files,
    locked,
    remove_file,
)
from dora.cluster.ssh.use_lock import in_use, is_in_use
from dora.errors import DoraError
from dora.wire.decoders import from_json

EXPECTED: Final = 3600.0  # seconds; what is unused for longer goes, and a later run copies it again
_UUID: Final = re.compile(r"[0-9A-Za-z-]{1,64}")
_EXPECTED: Final = f"{OWN_PREFIX}.new"  # no dataflow has started in it yet; empty until it is complete
_USES: Final = f"{OWN_PREFIX}.uses"  # a folder with a file for each dataflow and machine
_RUN: Final = f"{OWN_PREFIX}.run"  # locked by each `dora run` in the copy


class RetainedCopies(msgspec.Struct, frozen=True):
    """The copies that a dataflow has here, and the coordinator with its record: address and port."""

    coordinator: str
    copies: list[str]


class Copy(msgspec.Struct, frozen=True):
    """A copy on this machine.

    ``dataflows`` are the UUIDs of those that use it. Without any it stays for as long as a `dora run` is
    ``running`` in it, or a dataflow is ``expected``. It is ``left_over`` when only what nodes have written
    is there.
    """

    folder: str
    size: int  # bytes, with what nodes have written
    dataflows: list[str]
    expected: bool
    left_over: bool
    running: bool = False


# ----------------------------------------------------------------------- uses


def retain(dataflow_id: str, machine: str, coordinator: str, folders: Iterable[str]) -> None:
    """Record that a dataflow is about to run in these folders; those that are no copies are ignored.

    Raises ``OSError``, and `DoraError` for a copy that is not complete: its last update was cut off, or it
    goes on.
    """
    found = sorted({copy for folder in folders if (copy := copy_of(folder)) is not None})
    for copy in found:
        if _is_incomplete(copy):
            raise DoraError(f"the copy of its folder in {copy} is not complete; start the dataflow again")
    for copy in found:
        os.makedirs(os.path.join(copy, _USES), exist_ok=True)
        with open(_use(copy, dataflow_id, machine), "w"):
            pass
        _unlink(os.path.join(copy, _EXPECTED))
    folder = _retained_folder(machine)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    with open(os.path.join(folder, f".{dataflow_id}"), "wb") as file:
        file.write(msgspec.json.encode(RetainedCopies(coordinator, found)))
    os.replace(file.name, os.path.join(folder, dataflow_id))


def retained_for(machine: str, coordinator: str) -> tuple[str, ...]:
    """Return the dataflows of a coordinator that may still have copies or log files here."""
    notes = ((id, _retained(id, machine)) for id in _names(_retained_folder(machine)))
    return tuple(
        id for id, retained in notes if retained is not None and retained.coordinator == coordinator
    )


def coordinators_of(machine: str) -> set[str]:
    """Return the coordinators whose dataflows may still have copies or log files here."""
    notes = (_retained(id, machine) for id in _names(_retained_folder(machine)))
    return {retained.coordinator for retained in notes if retained is not None}


def release(dataflow_ids: Iterable[str], machine: str) -> None:
    """Remove what is kept for dataflows without a record: log files, states of nodes, unused copies."""
    for dataflow_id in filter(_UUID.fullmatch, dataflow_ids):  # another machine says which
        if (retained := _retained(dataflow_id, machine)) is None:
            continue
        remove_logs(os.path.join(data_folder(), "out", dataflow_id))
        shutil.rmtree(state_folder(dataflow_id, machine), ignore_errors=True)
        for copy in retained.copies:
            _unlink(_use(copy, dataflow_id, machine))
            remove_if_unused(copy)
        # Last: while the note is there, the coordinator repeats a removal that was cut off.
        _unlink(os.path.join(_retained_folder(machine), dataflow_id))


@contextmanager
def expected(folder: str) -> Iterator[None]:
    """Record that a copy is being made, and afterwards that a dataflow is expected."""
    path = os.path.join(folder, _EXPECTED)
    with open(path, "w"):
        pass
    yield
    _expect(folder)


def _expect(folder: str) -> None:
    with open(os.path.join(folder, _EXPECTED), "w") as file:
        file.write("complete\n")


@contextmanager
def running_in(folder: str) -> Iterator[None]:
    """Keep a copy from removal while a dataflow runs in it, in this block; raises ``OSError``."""
    with in_use(os.path.join(folder, _RUN)):
        try:
            yield
        finally:
            _expect(folder)


def _use(copy: str, dataflow_id: str, machine: str) -> str:
    return os.path.join(copy, _USES, f"{dataflow_id}@{machine}")


def _retained_folder(machine: str) -> str:
    return os.path.join(data_folder(), "retained", machine)


def _retained(dataflow_id: str, machine: str) -> RetainedCopies | None:
    try:
        with open(os.path.join(_retained_folder(machine), dataflow_id), "rb") as file:
            return from_json(file.read(), RetainedCopies)
    except (OSError, msgspec.DecodeError):
        return None


def _is_incomplete(copy: str) -> bool:
    try:
        return os.stat(os.path.join(copy, _EXPECTED)).st_size == 0
    except FileNotFoundError:
        return False  # a dataflow has started in it


def _is_expected(copy: str) -> bool:
    try:
        about = os.stat(os.path.join(copy, _EXPECTED))
    except OSError:
        return False
    return about.st_size > 0 and time.time() - about.st_mtime < EXPECTED


# ----------------------------------------------------------------------- removal


def copies() -> list[Copy]:
    """Return the copies on this machine."""
    folders = (os.path.join(copies_folder(), name) for name in _names(copies_folder()))
    found = (_copy(folder) for folder in folders if is_copy(folder))
    return [copy for copy in found if copy is not None]


def _copy(folder: str) -> Copy | None:
    try:
        return Copy(
            folder=folder,
            size=_size(folder),
            dataflows=_users(folder),
            expected=_is_expected(folder),
            left_over=_is_left_over(folder),
            running=is_in_use(os.path.join(folder, _RUN)),
        )
    except FileNotFoundError:
        return None  # another machine of this host has just removed it


def _users(folder: str) -> list[str]:
    return sorted({name.split("@")[0] for name in _names(os.path.join(folder, _USES))})


def remove_unused() -> None:
    """Remove the copies that nobody uses."""
    for name in _names(copies_folder()):
        remove_if_unused(os.path.join(copies_folder(), name))


def remove_if_unused(folder: str, *, wholly: bool = False) -> bool:
    """Remove a copy unless it is used, ``wholly``: with what nodes have written; return whether it went.

    One that is just being made, or cannot be removed, stays; so does what dora did not make.
    """
    try:
        if not is_copy(folder) or _is_used(folder) or (_is_left_over(folder) and not wholly):
            return False
        with locked(folder, wait=False):
            if _is_used(folder):  # once more: it may have become so before the lock
                return False
            _remove(folder, wholly)
    except OSError:
        return False
    return True


def _is_used(folder: str) -> bool:
    return bool(_users(folder)) or _is_expected(folder) or is_in_use(os.path.join(folder, _RUN))


def _remove(folder: str, wholly: bool) -> None:
    if wholly:
        for name in os.listdir(folder):
            path = os.path.join(folder, name)
            if os.path.isdir(path) and not os.path.islink(path):
                shutil.rmtree(path)
            elif name != LOCK:
                os.unlink(path)
    for path in known_files(folder):
        try:
            beside = os.path.dirname(inside(folder, path))
        except DoraError:
            continue  # a node has made a folder a link to somewhere else
        shutil.rmtree(os.path.join(beside, "__pycache__"), ignore_errors=True)
        remove_file(folder, path)
    for name in _own_files(folder):
        path = os.path.join(folder, name)
        if name == _USES:
            os.rmdir(path)
        elif name != LOCK:
            os.unlink(path)
    if os.listdir(folder) == [LOCK]:  # else nodes have written files, and the lock marks the copy
        os.unlink(os.path.join(folder, LOCK))
        os.rmdir(folder)


def _is_left_over(folder: str) -> bool:
    return _own_files(folder) == [LOCK] and os.listdir(folder) != [LOCK]


def _own_files(folder: str) -> list[str]:
    return [name for name in os.listdir(folder) if name.startswith(OWN_PREFIX)]


def _size(folder: str) -> int:
    size = 0
    for where, _, names in os.walk(folder):
        for name in names:
            if name == LOCK:
                continue
            try:
                size += os.lstat(os.path.join(where, name)).st_size
            except OSError:
                continue
    return size


def _names(folder: str) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError:
        return []


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
