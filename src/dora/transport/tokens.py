"""The token that authorizes clients of a coordinator: an environment variable, or a file of the user.

A file is used only if no other user can have written or read it: it has to be a regular file of this user
or of root, in a folder that other users cannot write to, and it is opened without following links. Any
other file is refused and never changed.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
from typing import Final, NamedTuple

from dora.errors import DoraError

TOKEN_NAME: Final = ".dora-token"
TOKEN_VARIABLE: Final = "DORA_AUTH_TOKEN"
SHORTEST: Final = 32  # characters

_LONGEST: Final = 4096  # characters; more of a file is read, so a longer token is refused and not cut
_TOKEN: Final = re.compile(rf"[A-Za-z0-9._~+/=-]{{{SHORTEST},{_LONGEST}}}")
_ROOT: Final = 0


class TokenError(DoraError):
    """There is no usable token, or a server does not know it."""


class Token(NamedTuple):
    """A token, and its source for messages."""

    value: str
    source: str


def token_path() -> str:
    """Return the path of the user's token: ``.dora-token`` in the configuration folder of dora."""
    base = os.environ.get("XDG_CONFIG_HOME", "")
    if not os.path.isabs(base):  # the XDG specification says to ignore it
        base = os.path.expanduser("~/.config")
    return os.path.join(base, "dora", TOKEN_NAME)


def find_token(also_here: bool = True) -> Token | None:
    """Return the token of a client: ``$DORA_AUTH_TOKEN``, ``./.dora-token``, or the user's.

    ``also_here`` False: skip the working folder. None if there is none; raises `TokenError` if it is not
    safe.
    """
    here = _from_environment() or (_from_file(TOKEN_NAME) if also_here else None)
    return here or _from_file(token_path())


def make_token() -> Token:
    """Return the token of a server: ``$DORA_AUTH_TOKEN``, or the user's, which is created if missing.

    Raises `DoraError`. A file in the working folder is ignored: the folder may belong to another user.
    """
    if (found := _from_environment()) is not None:
        return found
    path = token_path()
    return _from_file(path) or _make(path)


def _from_environment() -> Token | None:
    text = os.environ.get(TOKEN_VARIABLE, "").strip()
    return _checked(text, TOKEN_VARIABLE) if text else None


def _checked(text: str, source: str) -> Token:
    if not _TOKEN.fullmatch(text):
        raise TokenError(
            f"there is no usable token in {source}: a token has at least {SHORTEST} characters, which are "
            "letters, digits or one of ._~+/=-"
        )
    return Token(text, source)


def _from_file(path: str) -> Token | None:
    """Return the token in a file, None if there is no such file; raises `TokenError` if it is not safe."""
    try:
        # Open from the check to the use, so that nobody can put another folder in its place in between.
        folder = _open_folder(os.path.dirname(path) or ".")
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
    try:
        if _is_absent(path, folder):
            return None
        _check_folder(path, folder)
        return _checked(_read(path, folder), path)
    finally:
        os.close(folder)


def _is_absent(path: str, folder: int) -> bool:
    try:
        os.stat(os.path.basename(path), dir_fd=folder, follow_symlinks=False)
    except OSError:
        return True
    return False


def _open_folder(path: str) -> int:
    return os.open(path, getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC)


def _check_folder(path: str, folder: int) -> None:
    """Raise `TokenError` if other users can create files in the folder of a token."""
    found = os.fstat(folder)
    where = os.path.dirname(os.path.abspath(path))
    if found.st_uid not in (_ROOT, os.geteuid()):
        raise TokenError(f"the token in {path} is not used: its folder {where} belongs to another user")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not found.st_mode & stat.S_ISVTX:
        raise TokenError(
            f"the token in {path} is not used: other users may write to its folder; "
            f"`chmod go-w {where}` changes that"
        )


def _read(path: str, folder: int) -> str:
    # Another user may have put a pipe there, which must not block.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    try:
        descriptor = os.open(os.path.basename(path), flags, dir_fd=folder)
    except OSError as error:
        reason = "it is a symbolic link" if os.path.islink(path) else error.strerror
        raise TokenError(f"the token in {path} is not used: {reason}") from None
    try:
        if fault := _fault_of(os.fstat(descriptor)):
            raise TokenError(f"the token in {path} is not used: {fault}")
        return os.read(descriptor, 2 * _LONGEST).decode("ascii", errors="replace").strip()
    finally:
        os.close(descriptor)


def _fault_of(found: os.stat_result) -> str:
    """Return why a file is not safe for a token, "" if it is."""
    if not stat.S_ISREG(found.st_mode):
        return "it is not a regular file"
    if found.st_uid not in (_ROOT, os.geteuid()):
        return "it belongs to another user"
    # Root may grant a group read access to its token.
    allowed = stat.S_IRGRP if found.st_uid != os.geteuid() else 0
    if found.st_mode & 0o077 & ~allowed:
        return (
            "other users may read or write it; remove it, and `dora up` makes a new one, or `chmod 600` it "
            "if nobody else has seen it"
        )
    return ""


def _make(path: str) -> Token:
    """Write a new token; if several processes do so at once, one of them wins."""
    token = secrets.token_hex(32)
    place = os.path.dirname(path)
    temporary = f"{TOKEN_NAME}.{os.getpid()}.{secrets.token_hex(4)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        os.makedirs(place, mode=0o700, exist_ok=True)
        folder = _open_folder(place)
        try:
            _check_folder(path, folder)
            with open(os.open(temporary, flags, 0o600, dir_fd=folder), "w", encoding="ascii") as file:
                file.write(f"{token}\n")
            try:
                # Not `rename`: it would replace the token of a process that was faster.
                os.link(temporary, TOKEN_NAME, src_dir_fd=folder, dst_dir_fd=folder)
            finally:
                os.unlink(temporary, dir_fd=folder)
        finally:
            os.close(folder)
    except FileExistsError:
        pass  # another process was faster, and its file is complete
    except OSError as error:
        raise DoraError(f"the token cannot be written to {path}: {error.strerror}") from error
    if (found := _from_file(path)) is None:
        raise DoraError(f"the token cannot be written to {path}")
    return found
