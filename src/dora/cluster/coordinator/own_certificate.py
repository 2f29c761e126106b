"""The authority that a coordinator makes for itself, in the data folder.

It signs the certificate with which the coordinator serves other machines. Clients need not know it, because
the coordinator proves its certificate by the token (`dora.transport.proof`); a browser may import it. It
also signs the certificates of machines for the links between them.
"""

from __future__ import annotations

import re
import socket

from dora._paths import ALL_INTERFACES, data_folder
from dora.cluster.authority import SERVER, Authority, SignedCertificate, Signer
from dora.transport.tls import ServerContext, authority_digest, server_context


def own_authority(port: int) -> Authority:
    """Return the authority of the coordinator at a port, which is made if there is none.

    Raises `DoraError`.
    """
    folder = f"{data_folder()}/tls/coordinator-{port}"
    remedy = "remove that folder, and the next start of the coordinator makes another authority"
    return Authority(folder, f"dora coordinator of {socket.gethostname()}, port {port}", remedy)


class LinkAuthority:
    """Signs the certificates of machines. Its authority is made or loaded for the first one."""

    def __init__(self, port: int, *, is_remote: bool, is_kept: bool = True) -> None:
        """``is_remote``: the coordinator serves other machines. ``is_kept``: so is its authority."""
        self._port = port
        self.is_remote = is_remote
        self._is_kept = is_kept
        self._signer: Signer | None = None

    def sign(self, request: str, machine: str) -> tuple[SignedCertificate, str]:
        """Return the certificate, and what tells its authority from others.

        Raises ``ValueError`` for a bad request, `DoraError` if there can be no authority.
        """
        if self._signer is None:
            self._signer = own_authority(self._port) if self._is_kept else Signer.new("dora coordinator")
        text = self._signer.text
        return SignedCertificate(self._signer.sign(request, machine), text), authority_digest(text)


def own_certificate(authority: Authority, interface: str) -> ServerContext:
    """Return the context of a coordinator at an address, with a certificate of its authority.

    Raises `DoraError`.
    """
    authority.certify_server(_hosts(interface))
    path = f"{authority.folder}/{SERVER}"
    context = server_context(path, path)
    assert context is not None
    return context


def _hosts(interface: str) -> list[str]:
    """Return the addresses and the name by which a browser may reach a coordinator."""
    import psutil

    found = {interface}
    if interface in ALL_INTERFACES:
        items = [item for each in psutil.net_if_addrs().values() for item in each]
        found = {item.address for item in items if item.family in (socket.AF_INET, socket.AF_INET6)}
        found = {address for address in found if "%" not in address}
    names = r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*"
    found.add(socket.gethostname())
    return sorted(host for host in found if ":" in host or re.fullmatch(names, host))
