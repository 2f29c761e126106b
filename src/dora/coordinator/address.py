"""Where a coordinator is, as the environment of a command says. Imports nothing: every command reads it."""

from __future__ import annotations

import os
from typing import Final

DEFAULT_PORT: Final = 6013
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
ADDRESS_VARIABLE: Final = "DORA_COORDINATOR_ADDR"
PORT_VARIABLE: Final = "DORA_COORDINATOR_PORT"
AUTHORITY_VARIABLE: Final = "DORA_COORDINATOR_CA"


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


def chosen_address() -> tuple[str, str]:
    """Return the address and the port of the coordinator that commands speak with."""
    address = os.environ.get(ADDRESS_VARIABLE, "") or "127.0.0.1"
    return address, os.environ.get(PORT_VARIABLE, "") or str(DEFAULT_PORT)


def is_chosen(coordinator: str) -> bool:
    """Tell whether commands speak with the coordinator at this address and port.

    Where none is chosen by its address, one of another machine at the chosen port is meant as well; "",
    none at all, always is.

    >>> [is_chosen(place) for place in ("", "[::1]:6013", "10.0.0.1:6013", "127.0.0.1:6014")]
    [True, True, True, False]
    """
    if not coordinator:
        return True
    address, port = chosen_address()
    host, _, its_port = coordinator.rpartition(":")
    return its_port == port and (address in LOOPBACK or host.strip("[]") == address)
