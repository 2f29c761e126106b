"""TLS of the API: a certificate that the coordinator shows, and the authority by which others know it.

It proves who the coordinator is and hides what is said, the token first of all. Who may ask is still a
matter of the token.
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


# A connection with TLS that one thread may read while another one writes.
#
# OpenSSL allows only one thread at a time to use a connection, also for reading and writing. A blocking
# socket of Python does not see to that: a read that waits uses the connection all the while, and every few
# hundred connections one never gets its first answer, because what the server sends after its handshake is
# read while the request is written. Here a thread uses the connection only for as long as nothing has to be
# waited for, and waits without it.
#
# Python's socket does not see to a ``close`` amid a read either: it takes the encryption away first, and
# whoever is about to read gets what comes over the network as it is, or a ``ValueError``. So closing takes
# its turn, too.

_POLL_INTERVAL: Final = 0.5  # seconds until it is noticed that the other thread has closed it

_Result = TypeVar("_Result")


def duplex_client_context(authority: str) -> ssl.SSLContext | None:
    """Return the context of a client whose connection is for two threads; otherwise as `client_context`.

    For `websockets.sync`, which uses just the methods that `DuplexTLSSocket` has anew.
    """
    context = client_context(authority)
    if context is not None:
        context.sslsocket_class = DuplexTLSSocket
    return context


class DuplexTLSSocket(ssl.SSLSocket):
    """``recv`` and ``sendall`` may be called at the same time. ``settimeout`` is for both.

    So may ``close``, which does not wait: whoever waits gets an ``OSError`` then.
    """

    _turn: threading.RLock  # a signal handler or a finalizer may close what its thread is reading

    def __new__(cls, *args: Any, **options: Any) -> DuplexTLSSocket:
        made = super().__new__(cls, *args, **options)
        made._turn = threading.RLock()
        return made

    def settimeout(self, value: float | None) -> None:
        with self._turn:
            super().settimeout(value)

    def shutdown(self, how: int) -> None:
        """As of a plain socket: who does not want to write any more may still read."""
        with self._turn:
            socket.socket.shutdown(self, how)

    def close(self) -> None:
        with self._turn:
            with contextlib.suppress(OSError):
                self.shutdown(socket.SHUT_RDWR)  # wakes whoever waits
            super().close()

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        return self._alone(lambda: ssl.SSLSocket.recv(self, buflen, flags))

    def sendall(self, data: Any, flags: int = 0) -> None:
        with memoryview(data) as given, given.cast("B") as rest:
            done = 0
            while done < len(rest):
                done += self._alone(lambda: ssl.SSLSocket.send(self, rest[done:], flags))  # noqa: B023

    def _alone(self, work: Callable[[], _Result]) -> _Result:
        """Do something that would wait, and wait for it outside; raises ``TimeoutError``."""
        begin = time.monotonic()
        while True:
            with self._turn:
                self._check_open()
                patience = self.gettimeout()
                super().settimeout(0.0)
                try:
                    return work()
                except ssl.SSLWantReadError:
                    event = select.POLLIN
                except ssl.SSLWantWriteError:
                    event = select.POLLOUT
                finally:
                    if self.fileno() >= 0:
                        super().settimeout(patience)
            if patience is not None and time.monotonic() - begin >= patience:
                raise TimeoutError("timed out")
            self._wait(event, patience)

    def _wait(self, event: int, patience: float | None) -> None:
        poll = select.poll()
        poll.register(self._check_open(), event)
        poll.poll(1000 * min(_POLL_INTERVAL, _POLL_INTERVAL if patience is None else patience))

    def _check_open(self) -> int:
        """Return the descriptor; raises ``OSError``."""
        if (descriptor := self.fileno()) < 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return descriptor
