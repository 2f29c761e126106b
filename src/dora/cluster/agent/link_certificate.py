"""The certificate of this machine for its links, which the coordinator signs whenever the daemon connects.

The key is made here and stays here. The files are there as long as the daemon, in a folder of this user.
"""

from __future__ import annotations

import contextlib
import os

from dora.cluster.authority import SignedCertificate, new_request, write_for_user
from dora.transport.tls import check_machine_certificate
from dora.wire.node_config import TlsFiles


class LinkCertificate:
    """The certificate of a machine, and its key."""

    def __init__(self, machine: str, path: str) -> None:
        """``path`` begins the names of its files."""
        self._machine = machine
        self._files = TlsFiles(f"{path}.ca.pem", f"{path}.pem", f"{path}.pem")
        self._key = ""

    def request(self) -> str:
        """Make a key, and return the request that its certificate be signed (PEM)."""
        self._key, request = new_request(self._machine)
        return request

    def take(self, signed: SignedCertificate) -> TlsFiles:
        """Write the files, and return their names; raises ``OSError``, `DoraError`."""
        files = self._files
        write_for_user(files.authority, signed.authority)
        write_for_user(files.certificate, self._key + signed.certificate)
        check_machine_certificate(files, self._machine)
        return files

    def remove(self) -> None:
        for path in {self._files.authority, self._files.certificate}:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
