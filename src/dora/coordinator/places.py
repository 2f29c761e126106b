"""Where the coordinator and the commands keep what outlives them: the store and the token."""

from __future__ import annotations

import os
import secrets

from dora.coordinator.address import DEFAULT_PORT
from dora.errors import DoraError

TOKEN_NAME = ".dora-token"


def data_folder() -> str:
    """Return the folder of the store: ``$DORA_DATA_DIR``, or ``dora`` in the user's data folder."""
    chosen = os.environ.get("DORA_DATA_DIR")
    if chosen:
        return os.path.abspath(chosen)
    base = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return os.path.join(base, "dora")


def store_path(port: int) -> str:
    """Return the file of the store; coordinators at other ports have others."""
    name = "coordinator" if port == DEFAULT_PORT else f"coordinator-{port}"
    return os.path.join(data_folder(), f"{name}.sqlite")


def token_path() -> str:
    """Return the file of the token: ``.dora-token`` in the user's configuration folder of dora."""
    base = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return os.path.join(base, "dora", TOKEN_NAME)


def find_token() -> str:
    """Return the token that a command shows: ``$DORA_AUTH_TOKEN``, ``./.dora-token``, the user's, or "".

    A file of another user, but root, does not count: who has planted it knows the token.
    """
    if token := os.environ.get("DORA_AUTH_TOKEN", "").strip():
        return token
    for path in (TOKEN_NAME, token_path()):
        try:
            with open(path, encoding="ascii") as file:
                is_trusted = os.fstat(file.fileno()).st_uid in (0, os.geteuid())
                if is_trusted and (token := file.read().strip()):
                    return token
        except (OSError, UnicodeDecodeError):
            continue
    return ""


def make_token() -> str:
    """Return this user's token, made if there is none; its file gets mode 0600. Raises `DoraError`."""
    for path in (TOKEN_NAME, token_path()):
        _close_to_others(path)
    if token := find_token():
        return token
    token = secrets.token_hex(32)
    path = token_path()
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(f"{token}\n")
    except FileExistsError:
        raise DoraError(f"there is no token in {path}; remove the file, and a new one is made") from None
    except OSError as error:
        raise DoraError(f"the token cannot be written to {path}: {error.strerror}") from error
    return token


def _close_to_others(path: str) -> None:
    """Let a file of this user be readable by nobody else; it may be a copy of the token."""
    try:
        if os.stat(path).st_uid == os.geteuid():
            os.chmod(path, 0o600)
    except OSError:
        pass  # it does not exist
