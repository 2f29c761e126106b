"""Whose a connection is that comes from this machine: Linux tells the user of each socket.

The loopback addresses are everybody's on a machine, so without a token any of its users could start
programs as the one whose coordinator it is.
"""

from __future__ import annotations

import os
import pwd
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Final

Address = Sequence[str | int]  # and port; more may follow

_ESTABLISHED, _LISTENING = "01", "0A"
_ROOT: Final = 0


def stranger(client: Address, server: Address, read: Callable[[str], str] | None = None) -> str:
    """Return the name of the other user to whom a connection belongs, "" if it is fine.

    Fine is one of this user and one of root, and every one where the system does not tell. ``read``
    returns the text of a file.
    """
    try:
        here, there = _written(client), _written(server)
        text = (read or _read)("/proc/net/tcp6" if ":" in str(client[0]) else "/proc/net/tcp")
    except OSError:
        return ""
    tells = False
    for line in text.splitlines()[1:]:
        words = line.split()
        if len(words) < 8:
            continue
        local, remote, state, user = words[1], words[2], words[3], words[7]
        if local == here and remote == there and state == _ESTABLISHED:
            return "" if int(user) in (_ROOT, os.geteuid()) else name_of(int(user))
        tells = tells or (state == _LISTENING and local.endswith(there[-5:]))
    # A socket that was closed meanwhile is nobody's, and who does not wait for the answer may be anybody.
    return "somebody who has gone" if tells else ""


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read()


def _written(address: Address) -> str:
    """Return an address as these tables have it: hexadecimal words in the order of this machine's bytes.

    >>> _written(("127.0.0.1", 6013)) if sys.byteorder == "little" else "0100007F:177D"
    '0100007F:177D'
    """
    host, port = str(address[0]), int(address[1])
    data = socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
    words = [data[index : index + 4] for index in range(0, len(data), 4)]
    if sys.byteorder == "little":
        words = [word[::-1] for word in words]
    return f"{b''.join(words).hex().upper()}:{port:04X}"


def name_of(user: int) -> str:
    """Return the name of a user, by its number."""
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"the user with number {user}"
