"""Make files and folders where other users may write: in a working folder, in ``/tmp``.

Another user may have put a link, a file or a folder there before, with the name that dora is going to use.
A link would lead dora into files of its own user, a folder would have it run what somebody else put there.
So every name is looked up in a folder that is open already (``openat``), where nobody can exchange what
has been checked:

* a symbolic link is followed only if it belongs to this user or to root;
* a folder belongs to this user, to root, or to the owner of the folder where the search begins. That user's
  programs are run anyway: with the rights of root, for example, in a folder that a container has mounted;
* a file is a regular file of one of these users, and has no second name (a hard link to a file elsewhere).

If only this user and root can write to a folder, only the owner of links is checked. The rest was made by
the user.

`dora._ownership` has the stricter checks of what belongs to a running dataflow: no other user can even read
that, and no link is followed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import Final

from dora._ownership import user_name

_MOST_LINKS: Final = 40  # the limit of Linux
_OTHERS_WRITE: Final = 0o022
# Without O_PATH (macOS), a folder that can only be entered cannot be opened.
_FOLDER: Final = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC


def open_file(path: str, flags: int, *, below: str | None = None, mode: int = 0o666) -> int:
    """Open a file, and return its descriptor.

    ``path`` is relative to ``below``, or absolute and in it; that folder is the user's choice. With
    ``O_CREAT``, it and the folders on the way are made. None: the folder of the file, which must be there.
    ``flags`` and ``mode`` as for ``os.open``. Raises ``OSError``, also for what another user has put there:
    its ``strerror`` says so.
    """
    base, names = _split(path, below)
    folder = _open_folder(base, names[:-1], make=below is not None and bool(flags & os.O_CREAT))
    try:
        return _open_in(folder, names[-1], flags, mode, os.path.join(base, *names), _owners(base))
    finally:
        os.close(folder)


def make_folder(path: str, *, below: str) -> None:
    """Make a folder and those on the way to it, or check them if they are there.

    ``path`` and ``below`` as for `open_file`. Raises ``OSError``.
    """
    base, names = _split(path, below)
    os.close(_open_folder(base, names, make=True))


def check_folder_if_there(path: str, *, below: str) -> None:
    """Check a folder like `make_folder`; one that is missing is no fault."""
    base, names = _split(path, below)
    try:
        os.close(_open_folder(base, names, make=False))
    except FileNotFoundError:
        pass


def write_file(path: str, data: bytes, *, below: str, mode: int = 0o666) -> None:
    """Write a file of dora, or replace one, at once: it is never there in part.

    Not for a file that the user names: a link or a device there would be replaced, too. ``path`` and
    ``below`` as for `open_file`. Raises ``OSError``.
    """
    base, names = _split(path, below)
    folder = _open_folder(base, names[:-1], make=True)
    try:
        # A new name each time: a killed process may have left its unfinished file under a fixed one.
        unfinished = f"{names[-1]}.{os.urandom(4).hex()}"
        file = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode, dir_fd=folder)
        try:
            with open(file, "wb") as opened:
                opened.write(data)
            os.rename(unfinished, names[-1], src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with contextlib.suppress(OSError):  # the first error is the one to report
                os.unlink(unfinished, dir_fd=folder)
            raise
    finally:
        os.close(folder)


def open_folder(path: str, *, below: str) -> int:
    """Make a folder like `make_folder`, and return a descriptor, for `open_in` and ``os.rename``."""
    base, names = _split(path, below)
    return _open_folder(base, names, make=True)


def open_in(folder: int, name: str, flags: int) -> int:
    """Open a file in a folder of `open_folder`; raises like `open_file`."""
    return _open_in(folder, name, flags, 0o666, name, _owners(folder))


def rotate_file(path: str, keep: int, *, below: str) -> None:
    """Move a file out of the way like `rotate`; ``path`` and ``below`` as for `open_file`."""
    folder_path, name = os.path.split(path)
    folder = open_folder(folder_path, below=below)
    try:
        rotate(folder, name, keep)
    finally:
        os.close(folder)


def rotate(folder: int, name: str, keep: int, newest: str = "") -> None:
    """Move a file of an open folder out of the way: ``log.txt`` becomes ``log.1.txt``, that ``log.2.txt``.

    At most ``keep`` such files are kept. ``newest`` becomes ``log.1.txt`` instead of the file itself.
    Raises ``OSError``.
    """
    stem, ending = os.path.splitext(name)
    if keep <= 0:
        os.unlink(name, dir_fd=folder)
        return
    for index in range(keep - 1, -1, -1):  # the oldest first: none replaces one that still has to move
        before = f"{stem}.{index}{ending}" if index else newest or name
        try:
            os.replace(before, f"{stem}.{index + 1}{ending}", src_dir_fd=folder, dst_dir_fd=folder)
        except FileNotFoundError:
            pass  # there are not so many yet


def _split(path: str, below: str | None) -> tuple[str, list[str]]:
    """Return the folder to begin with, and the names on the way from there."""
    if "\0" in path or "\0" in (below or ""):
        raise OSError(errno.EINVAL, "a path cannot hold a NUL", path)
    if below is None:
        folder, name = os.path.split(path)
        if not name:
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        return folder or ".", [name]
    relative = os.path.relpath(path, below) if os.path.isabs(path) else os.path.normpath(path)
    names = relative.split("/")
    if names[0] == "..":
        raise ValueError(f"{path} is not below {below}")
    return below, [name for name in names if name != "."]


def _open_folder(base: str, names: list[str], *, make: bool) -> int:
    """Open the folder that is reached by names; the caller closes it."""
    folder = _open_base(base, make)
    try:
        owners = _owners(folder)
        shown = base
        for name in names:
            shown = os.path.join(shown, name)
            entered = _enter(folder, name, owners, make, shown)
            os.close(folder)
            folder = entered
    except BaseException:
        os.close(folder)
        raise
    return folder


def _owners(base: int | str) -> set[int]:
    """Return the users whose files and folders below a folder are used, and whose programs are run."""
    return {os.getuid(), 0, os.stat(base).st_uid}


def _open_base(base: str, make: bool) -> int:
    try:
        return os.open(base, _FOLDER)
    except FileNotFoundError:
        if not make:
            raise
    os.makedirs(base, exist_ok=True)
    return os.open(base, _FOLDER)


def _enter(above: int, name: str, owners: set[int], make: bool, shown: str) -> int:
    """Open a folder in a folder, and make it if it is not there."""
    if make:
        # Made before it is checked: after a check, another user could still put something there.
        try:
            os.mkdir(name, dir_fd=above)
        except FileExistsError:
            pass
        except OSError as error:
            # A folder that may be entered and not be written to is no fault if there is nothing to make.
            if not _is_there(above, name):
                raise OSError(error.errno, error.strerror, shown) from None
    try:
        target = _own_link(above, name, shown)
        if not _others_write(above):
            return os.open(name, _FOLDER, dir_fd=above)
        if target is not None:
            return os.open(target, _FOLDER, dir_fd=above)
        folder = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=above)
    except OSError as error:
        raise OSError(error.errno, error.strerror, shown) from None
    if (owner := os.fstat(folder).st_uid) not in owners:
        os.close(folder)
        raise _refused(shown, f"this folder belongs to another user ({user_name(owner)})")
    return folder


def _open_in(folder: int, name: str, flags: int, mode: int, shown: str, owners: set[int]) -> int:
    flags |= os.O_CLOEXEC
    above = os.dup(folder)
    try:
        for _ in range(_MOST_LINKS):
            target = None if flags & os.O_EXCL else _own_link(above, name, shown)
            if not _others_write(above):
                return os.open(name, flags, mode, dir_fd=above)
            if target is None:
                return _open_checked(above, name, flags, mode, shown, owners)
            place, name = os.path.split(target)
            entered = os.open(place or ".", _FOLDER, dir_fd=above)
            os.close(above)
            above = entered
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), shown)
    except OSError as error:
        raise OSError(error.errno, error.strerror, shown) from None
    finally:
        os.close(above)


def _open_checked(folder: int, name: str, flags: int, mode: int, shown: str, owners: set[int]) -> int:
    # A file is checked before it is emptied. A pipe would block without O_NONBLOCK.
    checked = (flags & ~os.O_TRUNC) | os.O_NOFOLLOW | os.O_NONBLOCK
    file = os.open(name, checked, mode, dir_fd=folder)
    try:
        status = os.fstat(file)
        fault = ""
        if not stat.S_ISREG(status.st_mode):
            fault = "it is not a regular file"
        elif status.st_uid not in owners:
            fault = f"it belongs to another user ({user_name(status.st_uid)})"
        elif status.st_nlink > 1:
            fault = "it has a second name (a hard link), and that may be anywhere"
        if fault:
            raise _refused(shown, fault)
        if flags & os.O_TRUNC:
            os.ftruncate(file, 0)
    except BaseException:
        os.close(file)
        raise
    return file


def _others_write(folder: int) -> bool:
    """Return whether anybody else than this user and root can make files in a folder."""
    status = os.fstat(folder)
    return status.st_uid not in (os.getuid(), 0) or bool(status.st_mode & _OTHERS_WRITE)


def _own_link(folder: int, name: str, shown: str) -> str | None:
    """Return where a link leads, None for anything else; raises ``OSError`` for one of another user."""
    try:
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
    if not stat.S_ISLNK(status.st_mode):
        return None
    if status.st_uid not in (os.getuid(), 0):
        owner = user_name(status.st_uid)
        raise _refused(shown, f"it is a symbolic link of another user ({owner}), which is not followed")
    target = os.readlink(name, dir_fd=folder)
    after = os.stat(name, dir_fd=folder, follow_symlinks=False)
    # Another user may put another link in place of this one, for a moment. That changes the time of the
    # inode, also if the first one comes back.
    if any(getattr(status, item) != getattr(after, item) for item in ("st_dev", "st_ino", "st_ctime_ns")):
        raise _refused(shown, "it was exchanged while it was read")
    return target


def _refused(shown: str, why: str) -> OSError:
    return PermissionError(errno.EPERM, why, shown)


def _is_there(folder: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return False
    return True
