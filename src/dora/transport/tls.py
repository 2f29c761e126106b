"""TLS of the HTTP API, and the check of the certificates that machines use for their links.

TLS proves the identity of the coordinator and encrypts the traffic, above all the token. Authorization is
still up to the token. The links themselves are encrypted by gateways, see `dora.gateway.meeting`.
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
from hashlib import sha256
from typing import Any, Final, TypeGuard, TypeVar

from dora._paths import AUTHORITY_VARIABLE, NO_TLS
from dora.errors import DoraError
from dora.wire.node_config import TlsFiles

# OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED.
_OUT_OF_TIME: Final = (9, 10)
# From X509_V_ERR_PATHLEN_INVALID_FOR_NON_CA to X509_V_ERR_EXTENSIONS_REQUIRE_VERSION_3: only the flag
# VERIFY_X509_STRICT finds them, which Python sets since 3.13.
_NOT_STRICT: Final = range(80, 94)


def authority_from_environment() -> str:
    """Return the absolute path in ``DORA_COORDINATOR_CA``, `NO_TLS`, or "" if it is not set."""
    path = os.environ.get(AUTHORITY_VARIABLE, "")
    return os.path.abspath(path) if path not in ("", NO_TLS) else path


class ServerContext(ssl.SSLContext):
    """The TLS context of a server whose certificate may be renewed while it runs."""

    certificate: str
    key: str
    encoded: bytes
    """The certificate itself, as the other side gets it (DER)."""
    _loaded: tuple[int, ...]

    def load(self, certificate: str, key: str) -> None:
        """Use these files; raises ``OSError``."""
        self.certificate, self.key = certificate, key
        # Before the files are read: one that changes meanwhile has another time, and is read again.
        self._loaded = self._changed_at()
        # Without the last argument it would ask for a passphrase on the terminal.
        self.load_cert_chain(certificate, key, lambda: b"")
        with open(certificate, encoding="ascii", errors="replace") as file:
            self.encoded = _first_certificate(file.read())

    def reload(self) -> bool:
        """Use renewed files for new connections, and return whether there were any.

        Files that do not belong together, because only one is renewed so far, are left for later.
        """
        try:
            if self._changed_at() == self._loaded:
                return False
            # In a context of its own first: if it fails, this one must not have half of the pair.
            ServerContext(ssl.PROTOCOL_TLS_SERVER).load(self.certificate, self.key)
            self.load(self.certificate, self.key)
        except OSError:
            return False
        return True

    def _changed_at(self) -> tuple[int, ...]:
        return tuple(os.stat(path).st_mtime_ns for path in (self.certificate, self.key))


def _first_certificate(text: str) -> bytes:
    """Return the first certificate of a PEM file, which a server shows, as DER."""
    begin, end = text.index(ssl.PEM_HEADER), text.index(ssl.PEM_FOOTER)
    return ssl.PEM_cert_to_DER_cert(text[begin : end + len(ssl.PEM_FOOTER)])


def server_context(certificate: str, key: str) -> ServerContext | None:
    """Return the TLS context of a coordinator, None without files. Raises `DoraError`."""
    if not certificate and not key:
        return None
    if not certificate or not key:
        raise DoraError("--tls-cert and --tls-key must be given together, and one of them is missing")
    for path in (certificate, key):
        _check_readable(path)
    context = ServerContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load(certificate, key)
    except ssl.SSLError as error:
        raise _no_pair(certificate, key, error) from None
    return context


def _no_pair(certificate: str, key: str, error: ssl.SSLError) -> DoraError:
    return DoraError(f"{certificate} and {key} are not a certificate and its key: {_reason(error)}")


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
        if error.verify_code in _OUT_OF_TIME:
            return f"the certificate of the coordinator at {where} {_out_of_time(error)}"
        if error.verify_code in _NOT_STRICT:
            return (
                f"the certificate of the coordinator at {where} is refused, because Python 3.13 and newer "
                f"check certificates more strictly: {error.verify_message.rstrip('.')}; make the authority "
                "and its certificates again, as the manual shows"
            )
        return (
            f"the certificate of the coordinator at {where} is not trusted: "
            f"{error.verify_message.rstrip('.')}; set {AUTHORITY_VARIABLE} or --coordinator-ca to the "
            "certificate of the authority that has signed it"
        )
    if error.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"):
        return (
            f"the server at {where} does not use TLS, so nothing else was sent to it; if it is your "
            "coordinator, start it without --no-tls, or where you trust the network, set "
            f"{AUTHORITY_VARIABLE} or --coordinator-ca to `{NO_TLS}`"
        )
    return f"no encrypted connection to the coordinator at {where}: {_reason(error)}"


def authority_digest(text: str) -> str:
    """Return what tells an authority from others; ``text`` is its certificate as PEM."""
    return sha256(_first_certificate(text)).hexdigest()


def machine_name(machine: str) -> str:
    """Return the name of a machine in its certificate, a URI among the alternative names of its subject.

    It is no address, because a machine may change its address.

    >>> machine_name("robot")
    'dora:robot'
    """
    return f"dora:{machine}"


def is_certified_as(connection: ssl.SSLSocket | ssl.SSLObject, machine: str) -> bool:
    """Return whether the other side of a verified connection has the certificate of a machine."""
    certificate: Any = connection.getpeercert() or {}
    return ("URI", machine_name(machine)) in certificate.get("subjectAltName", ())


def link_contexts(files: TlsFiles) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return the contexts with which a machine listens for others, and connects to them.

    Both want a certificate of the same authority from the other side. Its name is up to the caller, see
    `is_certified_as`. Raises `DoraError` if the files cannot be used.
    """
    try:
        return _read_link_contexts(files)
    except DoraError:
        # The daemon replaces them each time that it connects to the coordinator. So the certificate may be
        # of the former file, and the key of the next one: OpenSSL opens the file once for each.
        return _read_link_contexts(files)


def _read_link_contexts(files: TlsFiles) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    listener = server_context(files.certificate, files.key)
    connector = client_context(files.authority)
    assert listener is not None and connector is not None
    listener.load_verify_locations(files.authority)
    listener.verify_mode = ssl.CERT_REQUIRED
    try:
        connector.load_cert_chain(files.certificate, files.key, lambda: b"")
    except ssl.SSLError as error:
        raise _no_pair(files.certificate, files.key, error) from None
    connector.check_hostname = False  # it knows the machine, whatever its address is
    for context in (listener, connector):
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # authorities of users, not of the web
    return listener, connector


def check_machine_certificate(files: TlsFiles, machine: str) -> None:
    """Check the certificate with which a machine listens for others and connects to them.

    Both ends of a connection in memory use it and verify the other one, which finds whatever would end a
    connection to another machine. Raises `DoraError`.
    """
    listener, connector = link_contexts(files)
    to_listener, to_connector = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        connector.wrap_bio(to_connector, to_listener),
        listener.wrap_bio(to_listener, to_connector, server_side=True),
    )
    try:
        for end in (*ends, *ends):  # each speaks twice
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
    except ssl.SSLCertVerificationError as error:
        certificate = f"the certificate {files.certificate}"
        if error.verify_code in _OUT_OF_TIME:
            raise DoraError(f"{certificate} {_out_of_time(error)}") from None
        raise DoraError(
            f"{certificate} cannot be verified with {files.authority}: {error.verify_message.rstrip('.')}"
        ) from None
    except ssl.SSLError as error:
        raise DoraError(
            f"{files.certificate} cannot be the certificate of a machine: {_reason(error)}"
        ) from None
    if not is_certified_as(ends[0], machine):
        raise DoraError(
            f"the certificate {files.certificate} is not for machine `{machine}`; make another one with "
            f"subjectAltName=URI:{machine_name(machine)}"
        )


def _out_of_time(error: ssl.SSLCertVerificationError) -> str:
    """Return the end of the sentence about a certificate that has expired, or is not valid yet."""
    fault = "has expired" if error.verify_code == _OUT_OF_TIME[1] else "is not valid yet"
    return (
        f"{fault}, by the clock of this machine ({utc(time.time())}); set the clock if it is wrong, or "
        "renew the certificate"
    )


def utc(seconds: float) -> str:
    """Return a time in seconds since the Unix epoch, for messages.

    >>> utc(0.0)
    '1970-01-01 00:00 UTC'
    """
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def _check_readable(path: str) -> None:
    try:
        open(path, "rb").close()
    except OSError as error:
        raise DoraError(f"cannot read {path}: {error.strerror}") from None


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).replace("_", " ").lower()


_POLL_INTERVAL: Final = 0.5  # seconds until a waiting thread notices that another one has closed the socket

_NO_CHECK_TIME: Final = 0x200000  # OpenSSL's X509_V_FLAG_NO_CHECK_TIME

_Result = TypeVar("_Result")


def duplex_client_context(authority: str) -> ssl.SSLContext:
    """Return the context of a client whose connection two threads may use.

    It trusts this authority, or with "" nobody: then `dora.transport.proof` has to find out who the server
    is. Raises `DoraError`. For `websockets.sync`, which uses only the methods that `DuplexTLSSocket`
    overrides.
    """
    context = client_context(authority) or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if not authority:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.sslsocket_class = DuplexTLSSocket
    return context


def exact_client_context(certificate: bytes) -> ssl.SSLContext:
    """Return the context of a client that trusts one certificate (DER) only, at any address and time."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=certificate)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | _NO_CHECK_TIME
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def discard_errors() -> None:
    """Empty the list of errors that OpenSSL keeps for each thread; to be called after one of a connection.

    CPython 3.13.5 leaves the error of a connection that was reset in the list. OpenSSL looks at the list
    when a later read would block, so the read of any other connection of this thread would fail, too.
    The ``ssl`` module has no function for this; the beginning of a handshake empties the list.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with contextlib.suppress(ssl.SSLError):
        context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="none").do_handshake()


class DuplexTLSSocket(ssl.SSLSocket):
    """A TLS connection that one thread may read while another one writes; ``settimeout`` is for both.

    OpenSSL allows one thread at a time to use a connection, for reading and writing together. A blocking
    socket of Python does not ensure that: a read that waits uses the connection all the time, and one in a
    few hundred connections never gets its first answer, because the server's data after the handshake is
    read while the request is written. Here a thread uses the connection only while it need not wait, and
    waits without it.

    ``close`` may be called at any time and does not wait; threads that wait get an ``OSError``. A file of
    the socket, from ``makefile``, can still be read. Python's own ``close`` removes the encryption first,
    and a thread that is about to read gets the encrypted data or a ``ValueError``.
    """

    _lock: threading.RLock  # a signal handler or a finalizer may close the socket that its thread reads

    def __new__(cls, *args: Any, **options: Any) -> DuplexTLSSocket:
        made = super().__new__(cls, *args, **options)
        made._lock = threading.RLock()  # here: `ssl` makes sockets without `__init__`
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
            # `http.client` closes a socket and then reads the answer from its file.
            if not self._io_refs:  # type: ignore[attr-defined]
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
                except OSError:
                    discard_errors()
                    raise
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
