"""Check that a folder, file, pipe or socket belongs to this user before it is used.

The files of a running dataflow on disk and in shared memory belong to the user who started it, and no
other user has access to them. Another user may create files of the same names first, in folders where all
users may write (`/tmp`, `/dev/shm`). So the checks are made on the open file, or on the peer of the
connection, which nobody can exchange between the check and the use. Symbolic links are not followed.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
import sys
from typing import Final

from dora.errors import DoraError

_OTHERS: Final = 0o077  # all rights of the group and of others
_SOL_LOCAL: Final = 0  # macOS
_LOCAL_PEERCRED: Final = 1


class UnsafeFile(DoraError):
    """A file, folder or socket belongs to another user, gives others access, or is of another kind."""


def check_folder(path: str) -> None:
    """Raise `UnsafeFile` unless a folder belongs to this user alone, ``OSError`` if there is none."""
    status = os.lstat(path)
    fault = _fault(status) if stat.S_ISDIR(status.st_mode) else "is not a folder"
    if fault:
        raise UnsafeFile(f"{path} {fault}; nothing in it is used. {_hint(path, status)}")


def open_own(path: str, flags: int, *, kind: int = stat.S_IFREG) -> int:
    """Open a file that belongs to this user alone, and return its descriptor.

    ``kind``: the required type, a regular file or a pipe (``stat.S_IFIFO``). A file created because of
    ``flags`` gives access to this user only. Raises `UnsafeFile` if it is of another type or of another
    user, ``OSError`` if it cannot be opened.
    """
    # A pipe in place of a regular file would block without O_NONBLOCK, which a regular file ignores.
    flags |= os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        descriptor = os.open(path, flags, 0o600)
    except ValueError:  # a NUL
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path) from None
    except OSError:
        if os.path.islink(path):
            raise UnsafeFile(f"{path} is a symbolic link, which is not followed. {_hint(path)}") from None
        raise
    status = os.fstat(descriptor)
    fault = "is not a regular file" if kind == stat.S_IFREG else "is not a pipe"
    if stat.S_IFMT(status.st_mode) == kind:
        fault = _fault(status)
    if fault:
        os.close(descriptor)
        raise UnsafeFile(f"{path} {fault}; it is not used. {_hint(path)}")
    return descriptor


def connect_own(path: str, timeout: float | None = None) -> socket.socket:
    """Connect to a socket of this user's, in a folder of this user's, behind which this user listens.

    Raises `UnsafeFile` if it is another user's, ``OSError`` if the connection fails.
    """
    check_folder(os.path.dirname(path) or ".")
    status = os.lstat(path)
    if not stat.S_ISSOCK(status.st_mode):
        raise UnsafeFile(f"{path} is not a socket; it is not used. {_hint(path)}")
    if status.st_uid != os.getuid():
        raise UnsafeFile(f"{path} {_fault(status)}; nothing is sent to it. {_hint(path)}")
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout)
        connection.connect(path)
        if not is_own_peer(connection):
            raise UnsafeFile(f"another user listens at {path}; nothing is sent to it. {_hint(path)}")
    except BaseException:
        connection.close()
        raise
    return connection


def is_own_peer(connection: socket.socket) -> bool:
    """Return whether the process at the other end of a Unix socket belongs to this user or to root.

    Where the system cannot say, the folder of the socket keeps other users out.
    """
    try:
        if sys.platform == "linux":
            user = peer_of(connection)[1]
        elif sys.platform == "darwin":
            answer = connection.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, 128)
            user = struct.unpack_from("2I", answer)[1]
        else:
            return True
    except (OSError, struct.error):
        return False  # the user stays unknown, which is no reason to trust it
    return user in (os.getuid(), 0)


def peer_of(connection: socket.socket) -> tuple[int, int]:
    """Return the process and the user at the other end of a Unix socket (Linux); raises ``OSError``."""
    answer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    process, user, _ = struct.unpack("3i", answer)
    return process, user


def is_another_users(path: str) -> bool:
    """Return whether a path is anything but a regular file or folder of this user; False if it is gone."""
    try:
        status = os.lstat(path)
    except OSError:
        return False
    if stat.S_ISDIR(status.st_mode):
        return bool(_fault(status))
    return status.st_uid != os.getuid() or not stat.S_ISREG(status.st_mode)


def refuse_foreign_objects(folder: str, prefix: str, suffix: str = "") -> None:
    """Raise `UnsafeFile` if another user has created a file of such a name in a folder open to all.

    A folder of such a name has to give access to this user alone.
    """
    try:
        names = os.listdir(folder)
    except OSError:
        return  # not Linux
    for name in names:
        is_meant = name.startswith(prefix) and name.endswith(suffix)
        if is_meant and is_another_users(path := f"{folder}/{name}"):
            raise UnsafeFile(f"{path} was not made by this dataflow; it is not used. {_hint(path)}")


def close_to_others(path: str) -> None:
    """Remove the rights of other users to a file of this user; raises ``OSError``."""
    # `os.chmod` would look the path up a second time, when another file may have its name.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode) and status.st_uid == os.getuid():
            os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)


def _fault(status: os.stat_result) -> str:
    if status.st_uid != os.getuid():
        return f"belongs to another user ({user_name(status.st_uid)})"
    if status.st_mode & _OTHERS:
        return f"gives other users access (mode {stat.S_IMODE(status.st_mode):o})"
    return ""


def user_name(user: int) -> str:
    """Return the name of a user for messages; "user id 1234" if there is none."""
    import pwd  # only for the message

    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"user id {user}"


def _hint(path: str, status: os.stat_result | None = None) -> str:
    if status is not None and status.st_uid == os.getuid() and stat.S_ISDIR(status.st_mode):
        return f"Run `chmod 700 {path}`, or let DORA_RUNTIME_DIR name another folder"
    return f"Remove {path}, or let DORA_RUNTIME_DIR name a folder of your own"
