"""TLS of the HTTP API: the certificate of the coordinator, and the authority with which clients verify it.

TLS proves the identity of the coordinator and encrypts the traffic, above all the token. Authorization is
still up to the token.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any, Final, TypeGuard, TypeVar

from dora._paths import AUTHORITY_VARIABLE
from dora.errors import DoraError


def authority_from_environment() -> str:
    """Return the absolute path in ``DORA_COORDINATOR_CA``; "" if the API is not encrypted."""
    path = os.environ.get(AUTHORITY_VARIABLE, "")
    return os.path.abspath(path) if path else ""


def server_context(certificate: str, key: str) -> ssl.SSLContext | None:
    """Return the TLS context of a coordinator, None without files. Raises `DoraError`."""
    if not certificate and not key:
        return None
    if not certificate or not key:
        raise DoraError("--tls-cert and --tls-key must be given together, and one of them is missing")
    for path in (certificate, key):
        _check_readable(path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # Without the last argument it would ask for a passphrase on the terminal.
        context.load_cert_chain(certificate, key, lambda: b"")
    except ssl.SSLError as error:
        raise DoraError(
            f"{certificate} and {key} are not a certificate and its key: {_reason(error)}"
        ) from None
    return context


def client_context(authority: str) -> ssl.SSLContext | None:
    """Return the TLS context of a client that trusts this authority; None for "".

    Raises `DoraError` if the file cannot be used.
    """
    if not authority:
        return None
    _check_readable(authority)
    try:
        return ssl.create_default_context(cafile=authority)
    except ssl.SSLError as error:
        raise DoraError(f"{authority} contains no certificate of an authority: {_reason(error)}") from None


def is_tls_fault(error: OSError) -> TypeGuard[ssl.SSLError]:
    """Return whether the two sides disagree about TLS; a closed connection is no such fault."""
    if not isinstance(error, ssl.SSLError) or getattr(error, "library", "") == "SYS":
        return False
    return not isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError))


def tls_fault(error: ssl.SSLError, where: str) -> str:
    """Return the message for a failed TLS connection to a coordinator, with the remedy."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"the certificate of the coordinator at {where} is not trusted: "
            f"{error.verify_message.rstrip('.')}; set {AUTHORITY_VARIABLE} or --coordinator-ca to the "
            "certificate of the authority that has signed it"
        )
    if error.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"):
        return (
            f"the server at {where} does not use TLS; start the coordinator with --tls-cert and "
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


_POLL_INTERVAL: Final = 0.5  # seconds until a waiting thread notices that another one has closed the socket

_Result = TypeVar("_Result")


def duplex_client_context(authority: str) -> ssl.SSLContext | None:
    """Return the context of `client_context` for a connection that two threads use.

    For `websockets.sync`, which uses only the methods that `DuplexTLSSocket` overrides.
    """
    context = client_context(authority)
    if context is not None:
        context.sslsocket_class = DuplexTLSSocket
    return context


class DuplexTLSSocket(ssl.SSLSocket):
    """A TLS connection that one thread may read while another one writes; ``settimeout`` is for both.

    OpenSSL allows one thread at a time to use a connection, for reading and writing together. A blocking
    socket of Python does not ensure that: a read that waits uses the connection all the time, and one in a
    few hundred connections never gets its first answer, because the server's data after the handshake is
    read while the request is written. Here a thread uses the connection only while it need not wait, and
    waits without it.

    ``close`` may be called at any time and does not wait; threads that wait get an ``OSError``. Python's
    own ``close`` removes the encryption first, and a thread that is about to read gets the encrypted data
    or a ``ValueError``.
    """

    _lock: threading.RLock  # a signal handler or a finalizer may close the socket that its thread reads

    def __new__(cls, *args: Any, **options: Any) -> DuplexTLSSocket:
        made = super().__new__(cls, *args, **options)
        made._lock = threading.RLock()
        return made

    def settimeout(self, value: float | None) -> None:
        with self._lock:
            super().settimeout(value)

    def shutdown(self, how: int) -> None:
        """Shut down like a plain socket: after the writing side is shut down, reading still works."""
        with self._lock:
            socket.socket.shutdown(self, how)

    def close(self) -> None:
        with self._lock:
            with contextlib.suppress(OSError):
                self.shutdown(socket.SHUT_RDWR)  # wakes the threads that wait
            super().close()

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        return self._exclusively(lambda: ssl.SSLSocket.recv(self, buflen, flags))

    def sendall(self, data: Any, flags: int = 0) -> None:
        with memoryview(data) as given, given.cast("B") as rest:
            done = 0
            while done < len(rest):
                done += self._exclusively(lambda: ssl.SSLSocket.send(self, rest[done:], flags))  # noqa: B023

    def _exclusively(self, work: Callable[[], _Result]) -> _Result:
        """Call ``work`` alone, and wait without the lock when it would block; raises ``TimeoutError``."""
        begin = time.monotonic()
        while True:
            with self._lock:
                self._check_open()
                timeout = self.gettimeout()
                super().settimeout(0.0)
                try:
                    return work()
                except ssl.SSLWantReadError:
                    event = select.POLLIN
                except ssl.SSLWantWriteError:
                    event = select.POLLOUT
                finally:
                    if self.fileno() >= 0:
                        super().settimeout(timeout)
            if timeout is not None and time.monotonic() - begin >= timeout:
                raise TimeoutError("timed out")
            self._wait(event, timeout)

    def _wait(self, event: int, timeout: float | None) -> None:
        poll = select.poll()
        poll.register(self._check_open(), event)
        poll.poll(1000 * min(_POLL_INTERVAL, _POLL_INTERVAL if timeout is None else timeout))

    def _check_open(self) -> int:
        """Return the descriptor; raises ``OSError``."""
        if (descriptor := self.fileno()) < 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return descriptor
