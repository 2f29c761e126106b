"""Paths of running dataflows and of the coordinator.

Each user has one folder for running dataflows, the root, with one folder per run in it. The root is a
folder made by dora. An existing folder is used only if dora made it, which the text in its ``lock`` proves,
or if it is empty and gives access to this user alone. In any other folder, dora creates a folder
``dora-<uid>`` of its own.
"""

from __future__ import annotations

import os
import re
import stat
from typing import Final

import msgspec

from dora._ownership import UnsafeFile, check_folder, open_own

PACKAGE: Final = os.path.dirname(os.path.abspath(__file__))  # with the files that are part of dora
SOCKET_NAME: Final = "daemon.sock"
SHARED_MEMORY: Final = "/dev/shm"
ROOT_LOCK: Final = "lock"
ROOT_MARK: Final = b"This folder was made by dora, for the sockets and locks of running dataflows.\n"

_RUN_NAME: Final = "[0-9a-f]{12}"
_LONGEST_SESSION: Final = 40  # characters


class Root(msgspec.Struct, frozen=True):
    """The folder of this user's running dataflows. It need not exist."""

    path: str
    reason: str  # why it was chosen


def runtime_root() -> str:
    """Return the folder of this user's running dataflows, which need not exist.

    See `choose_root`. Raises `UnsafeFile` if it exists and does not belong to this user alone.
    """
    root = choose_root().path
    try:
        check_folder(root)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise _unusable(root, error.strerror) from error
    return root


def choose_root() -> Root:
    """Choose the folder of this user's running dataflows; it need not exist.

    ``$DORA_RUNTIME_DIR`` if set, else ``$XDG_RUNTIME_DIR/dora`` if that folder belongs to this user alone,
    else ``/tmp/dora-<uid>``. If something else is in there, it is ``dora-<uid>`` in that folder. Short,
    because the path of a socket has at most 107 bytes. Raises `UnsafeFile` if another user could interfere.
    """
    if chosen := os.environ.get("DORA_RUNTIME_DIR"):
        return _inside(os.path.abspath(chosen), "DORA_RUNTIME_DIR is set")
    session = os.environ.get("XDG_RUNTIME_DIR", "")
    fault = _fault_of_session(session)
    if not fault:
        return _inside(f"{os.path.abspath(session)}/dora", "XDG_RUNTIME_DIR is set")
    return _inside(f"/tmp/dora-{os.getuid()}", fault)


def _fault_of_session(path: str) -> str:
    """Return why a folder cannot be a session's, "" if it can."""
    if not path:
        return "neither DORA_RUNTIME_DIR nor XDG_RUNTIME_DIR is set"
    if len(path) >= _LONGEST_SESSION:
        return f"XDG_RUNTIME_DIR ({path}) is too long for sockets"
    try:
        status = os.stat(path)
    except OSError as error:
        return f"XDG_RUNTIME_DIR ({path}) cannot be used: {error.strerror}"
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        return f"XDG_RUNTIME_DIR ({path}) is not a folder of this user alone (chmod 700)"
    return "" if os.access(path, os.W_OK) else f"XDG_RUNTIME_DIR ({path}) cannot be written to"


def _inside(folder: str, reason: str) -> Root:
    """Return a folder if dora made it or will make it, else the one in it that is dora's."""
    try:
        status = os.lstat(folder)
        if _is_made_by_dora(folder, status):
            return Root(folder, reason)
    except FileNotFoundError:
        return Root(folder, reason)
    except OSError as error:
        raise _unusable(folder, error.strerror) from error
    fault = ""
    if not stat.S_ISDIR(status.st_mode):
        fault = "it is not a folder"
    elif status.st_uid not in (os.getuid(), 0):
        fault = "it belongs to another user"
    elif status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX:
        fault = f"all users can exchange what is in it (mode {stat.S_IMODE(status.st_mode):o})"
    if fault:
        raise _unusable(folder, fault)
    return Root(f"{folder}/dora-{os.getuid()}", f"{reason}, and dora did not make {folder} itself")


def _unusable(folder: str, fault: str | None) -> UnsafeFile:
    return UnsafeFile(
        f"cannot use {folder} for sockets and locks: {fault}; "
        "remove it, or let DORA_RUNTIME_DIR name a folder of your own"
    )


def _is_made_by_dora(folder: str, status: os.stat_result) -> bool:
    """Return whether dora made a folder, or may as well have: it is empty, and nobody else has access."""
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        return False
    if has_mark(folder):
        return True
    if status.st_mode & 0o077:
        return False
    names = os.listdir(folder)
    # Without the text, the lock belongs to a process that is just making the folder.
    if not names or (names == [ROOT_LOCK] and os.lstat(f"{folder}/{ROOT_LOCK}").st_size == 0):
        return True
    return has_mark(folder)  # that process may have written it meanwhile


def has_mark(folder: str) -> bool:
    """Return whether the lock of a folder has the text of dora."""
    try:
        lock = open_own(f"{folder}/{ROOT_LOCK}", os.O_RDONLY)
    except (OSError, UnsafeFile):
        return False  # no lock, or one that is not safe: dora did not make the folder
    try:
        return os.read(lock, len(ROOT_MARK)) == ROOT_MARK
    finally:
        os.close(lock)


def is_run_name(name: str) -> bool:
    """Return whether a folder may belong to a run by its name: the last 12 digits of an id."""
    return re.fullmatch(_RUN_NAME, name) is not None


def run_path(dataflow_id: str, root: str | None = None) -> str:
    """Return the folder of a run, by default among this user's."""
    return f"{root or runtime_root()}/{dataflow_id.replace('-', '')[-12:]}"


def prefix_of(run_dir: str) -> str:
    """Return the prefix of all shared memory of a run."""
    return f"dora_{os.path.basename(run_dir)}_"


def board_of(run_dir: str) -> str:
    """Return the path of the board of a run."""
    return (
        f"{SHARED_MEMORY}/{prefix_of(run_dir)}board" if os.path.isdir(SHARED_MEMORY) else f"{run_dir}/board"
    )


def links_socket_of(run_dir: str) -> str:
    """Return the path of the socket at which the gateway of a run gets connections from the daemon."""
    return f"{run_dir}/links.sock"  # not longer than `SOCKET_NAME`


def path_records_of(board: str, node_slot: int) -> str:
    """Return the path of a node's records of path latencies, beside the board; "" without a board."""
    return f"{board.removesuffix('board')}paths-{node_slot}" if board else ""


# --------------------------------------------------------------------------- address of the coordinator

DEFAULT_PORT: Final = 6013
DEFAULT_LINK_PORT: Final = 6014  # for connections of other machines to the gateways of this one
LINK_PORT_VARIABLE: Final = "DORA_LINK_PORT"
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
ALL_INTERFACES: Final = ("0.0.0.0", "::")
ADDRESS_VARIABLE: Final = "DORA_COORDINATOR_ADDR"
PORT_VARIABLE: Final = "DORA_COORDINATOR_PORT"
AUTHORITY_VARIABLE: Final = "DORA_COORDINATOR_CA"
NO_TLS: Final = "none"
"""In place of the file of an authority: connect to a coordinator on another machine without TLS."""


def address_fault(text: str) -> str:
    """Return why a text cannot be the address of a coordinator, as the end of a sentence; "" if it can.

    >>> address_fault("10.0.0.1"), address_fault("::1"), address_fault("robot-1.local")
    ('', '', '')
    >>> address_fault("http://robot")
    'is neither an IP address nor the name of a host; the port is given apart'
    """
    fault = "is neither an IP address nor the name of a host; the port is given apart"
    if ":" in text:
        import ipaddress  # few have such an address

        try:
            ipaddress.IPv6Address(text)
        except ValueError:
            return fault
        return ""
    labels = text.removesuffix(".").split(".")
    is_name = len(text) <= 253 and all(
        0 < len(label) <= 63 and label[0] != "-" and all(c.isalnum() or c in "-_" for c in label)
        for label in labels
    )
    if is_name and not text.isascii():
        try:
            text.encode("idna")
        except UnicodeError:
            is_name = False
    return "" if is_name else fault


def split_addresses(text: str) -> list[str]:
    """Return the addresses of a coordinator that is reachable at several, which are tried in turn.

    >>> split_addresses("192.168.1.10, [fd00::1]")
    ['192.168.1.10', 'fd00::1']
    """
    addresses = [part.strip() for part in text.split(",")]
    return [part[1:-1] if part.startswith("[") and part.endswith("]") else part for part in addresses]


def host_and_port(address: str, port: int) -> str:
    """Return an address with a port; `dora.gateway.meeting.split_address` is the inverse.

    >>> host_and_port("10.0.0.1", 6013), host_and_port("fd00::1", 6013)
    ('10.0.0.1:6013', '[fd00::1]:6013')
    """
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def chosen_address() -> tuple[str, str]:
    """Return the address and the port of the coordinator for commands, from the environment.

    The address may be several, see `split_addresses`.
    """
    address = os.environ.get(ADDRESS_VARIABLE, "") or "127.0.0.1"
    return address, os.environ.get(PORT_VARIABLE, "") or str(DEFAULT_PORT)


def is_chosen(coordinator: str) -> bool:
    """Return whether the coordinator at this address and port is the one for commands.

    Unless the environment names an address, one of another machine at the same port is accepted as well.
    "", for no coordinator, is always accepted.

    >>> [is_chosen(place) for place in ("", "[::1]:6013", "10.0.0.1:6013", "127.0.0.1:6014")]
    [True, True, True, False]
    """
    if not coordinator:
        return True
    address, port = chosen_address()
    host, _, its_port = coordinator.rpartition(":")
    addresses = split_addresses(address)
    return its_port == port and (not LOOPBACK.isdisjoint(addresses) or host.strip("[]") in addresses)


# --------------------------------------------------------------------------- store of the coordinator


def data_folder() -> str:
    """Return the folder of the store: ``$DORA_DATA_DIR``, or ``dora`` in the user's data folder."""
    chosen = os.environ.get("DORA_DATA_DIR")
    if chosen:
        return os.path.abspath(chosen)
    base = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return os.path.join(base, "dora")


def state_folder(dataflow_id: str, machine: str) -> str:
    """Return where the nodes of a machine save their state in a dataflow that outlives the machine."""
    return os.path.join(data_folder(), "state", dataflow_id, machine)


def store_path(port: int) -> str:
    """Return the file of the store; coordinators at other ports have others."""
    name = "coordinator" if port == DEFAULT_PORT else f"coordinator-{port}"
    return os.path.join(data_folder(), f"{name}.sqlite")
