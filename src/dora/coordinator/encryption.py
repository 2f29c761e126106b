"""TLS of the API: a certificate that the coordinator shows, and the authority by which others know it.

It proves who the coordinator is and hides what is said, the token first of all. Who may ask is still a
matter of the token.
"""

from __future__ import annotations

import os
import ssl
from typing import TypeGuard

from dora.coordinator.address import AUTHORITY_VARIABLE
from dora.errors import DoraError


def authority_from_environment() -> str:
    """Return the file that ``DORA_COORDINATOR_CA`` names, absolute; "" if the API is not encrypted."""
    path = os.environ.get(AUTHORITY_VARIABLE, "")
    return os.path.abspath(path) if path else ""


def server_context(certificate: str, key: str) -> ssl.SSLContext | None:
    """Return how the API is encrypted, None without files. Raises `DoraError`."""
    if not certificate and not key:
        return None
    if not certificate or not key:
        raise DoraError("--tls-cert and --tls-key belong together, and one of them is missing")
    for path in (certificate, key):
        _check_readable(path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # Without the last argument it would ask for a passphrase on the terminal.
        context.load_cert_chain(certificate, key, lambda: b"")
    except ssl.SSLError as error:
        raise DoraError(
            f"{certificate} and {key} are no certificate and its key: {_reason(error)}"
        ) from None
    return context


def client_context(authority: str) -> ssl.SSLContext | None:
    """Return how to speak to a coordinator that this authority vouches for; None for "".

    Raises `DoraError` if the file cannot be used.
    """
    if not authority:
        return None
    _check_readable(authority)
    try:
        return ssl.create_default_context(cafile=authority)
    except ssl.SSLError as error:
        raise DoraError(f"{authority} has no certificate of an authority: {_reason(error)}") from None


def is_tls_fault(error: OSError) -> TypeGuard[ssl.SSLError]:
    """Tell whether the two sides do not agree about TLS; one that just went away is no such fault."""
    if not isinstance(error, ssl.SSLError) or getattr(error, "library", "") == "SYS":
        return False
    return not isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError))


def tls_fault(error: ssl.SSLError, where: str) -> str:
    """Return a sentence that says why a coordinator cannot be spoken to in TLS, and the mend."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"the coordinator at {where} shows a certificate that is not to be trusted: "
            f"{error.verify_message.rstrip('.')}; {AUTHORITY_VARIABLE} or --coordinator-ca names who "
            "has signed it"
        )
    if error.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"):
        return (
            f"what answers at {where} does not speak TLS; start the coordinator with --tls-cert and "
            f"--tls-key, or do without {AUTHORITY_VARIABLE} and --coordinator-ca"
        )
    return f"no encrypted connection to the coordinator at {where}: {_reason(error)}"


def _check_readable(path: str) -> None:
    try:
        open(path, "rb").close()
    except OSError as error:
        raise DoraError(f"cannot read {path}: {error.strerror}") from None


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).replace("_", " ").lower()
