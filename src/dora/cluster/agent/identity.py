"""The identity of a daemon: its machine, its certificates, its lock, and the run ids of its dataflows."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Final

import msgspec

from dora._ownership import open_own
from dora._paths import SOCKET_NAME, run_path
from dora._version import __version__
from dora.cluster.protocol import (
    DEFAULT_MACHINE,
    Hello,
    RunReport,
    SignedCertificate,
    StartRun,
)
from dora.daemon.run_directory import usable_root
from dora.errors import DoraError
from dora.wire.node_config import TlsFiles
from dora.wire.node_protocol import PROTOCOL_VERSION


class Identity(msgspec.Struct, frozen=True):
    """``address`` is where other machines reach this one; "": where the coordinator sees it.

    ``link_port`` as ``wanted`` of `dora.cluster.agent.link_port.LinkPort`.
    """

    machine: str = DEFAULT_MACHINE
    labels: dict[str, str] = {}
    address: str = ""
    tls: TlsFiles | None = None
    link_port: int | None = None

    def hello(
        self, daemon_id: str, runs: tuple[RunReport, ...], retained: tuple[str, ...], request: str = ""
    ) -> Hello:
        """Return the introduction of the daemon in this process. With ``request``, it asks for ``tls``."""
        return Hello(
            __version__,
            daemon_id,
            os.getpid(),
            runs,
            machine=self.machine,
            labels=self.labels,
            address=self.address,
            tls="" if request or self.tls is None else _digest_of(self.tls),
            retained=retained,
            protocol=PROTOCOL_VERSION,
            request=request,
        )


def _digest_of(files: TlsFiles) -> str:
    from dora.transport.tls import authority_digest

    try:
        with open(files.authority, encoding="ascii", errors="replace") as file:
            return authority_digest(file.read())
    except FileNotFoundError:
        return ""  # it was signed, and the disk has no room for it


def parse_labels(text: str) -> dict[str, str]:
    """Return the labels of ``"gpu=true,arm=left"``; raises ``ValueError``.

    >>> parse_labels("gpu=true, arm=left")
    {'gpu': 'true', 'arm': 'left'}
    """
    labels: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = part.partition("=")
        if not equals or not name.strip():
            raise ValueError(f"`{part}` is no label; write for example gpu=true,arm=left")
        if (name := name.strip()) in labels:
            raise ValueError(f"the label `{name}` is given twice")
        labels[name] = value.strip()
    return labels


def tls_from(environ: Mapping[str, str], machine: str) -> TlsFiles | None:
    """Return the files that ``DORA_TLS_CA``, ``DORA_TLS_CERT`` and ``DORA_TLS_KEY`` name; None without.

    Raises `DoraError` if only some of them are set, or if they cannot be used by this ``machine``.
    """
    names = ("DORA_TLS_CA", "DORA_TLS_CERT", "DORA_TLS_KEY")
    found = [environ.get(name, "") for name in names]
    if not any(found):
        return None
    for name, path in zip(names, found, strict=True):
        if not path:
            raise DoraError(f"for TLS, {', '.join(names)} belong together; {name} is not set")
        if not os.access(path, os.R_OK):
            raise DoraError(f"{name} names {path}, which cannot be read")
    files = TlsFiles(*(os.path.abspath(path) for path in found))
    from dora.transport.tls import check_machine_certificate

    check_machine_certificate(files, machine)
    return files


class LinkCertificate:
    """The certificate of this machine for its links, which the coordinator signs at each connection.

    The key is made here and stays here. The files are there as long as the daemon, in a folder of this
    user.
    """

    def __init__(self, machine: str, path: str) -> None:
        """``path`` begins the names of its files."""
        self._machine = machine
        self.files = _files_at(path)
        self._next = _files_at(f"{path}.next")
        self._key = ""
        self._unwritten: tuple[str, str] | None = None  # texts of the authority, and of key and certificate

    def request(self) -> str:
        """Make a key, and return the request that its certificate be signed (PEM)."""
        from dora.cluster.authority import new_request

        self._key, request = new_request(self._machine)
        return request

    def take(self, signed: SignedCertificate) -> None:
        """Take the answer to `request`, which `write` writes."""
        self._unwritten = signed.authority, self._key + signed.certificate

    def write(self) -> str:
        """Write the files unless that is done; return why it fails, or "". The former ones stay then."""
        from dora.cluster.authority import write_for_user
        from dora.transport.tls import check_machine_certificate

        if self._unwritten is None:
            return ""
        authority, certificate = self._unwritten
        try:
            write_for_user(self._next.authority, authority)
            write_for_user(self._next.certificate, certificate)
            check_machine_certificate(self._next, self._machine)
            os.replace(self._next.authority, self.files.authority)
            os.replace(self._next.certificate, self.files.certificate)
        except OSError as error:
            return f"the certificate {self.files.certificate} cannot be written: {error.strerror}"
        except DoraError as error:
            return str(error)
        self._unwritten = None
        return ""

    @property
    def is_there(self) -> bool:
        return os.path.exists(self.files.certificate)

    def remove(self) -> None:
        for files in (self.files, self._next):
            for path in (files.authority, files.certificate):
                with suppress(FileNotFoundError):  # the coordinator has signed none
                    os.unlink(path)


def _files_at(path: str) -> TlsFiles:
    return TlsFiles(f"{path}.ca.pem", f"{path}.pem", f"{path}.pem")


# A coordinator has one daemon per machine. It locks a file, and the lock is free however the daemon ends.

_POLL_INTERVAL: Final = 0.001  # seconds; a reader holds the lock only while it reads a number


def lock_path(address: str, port: int, machine: str = DEFAULT_MACHINE) -> str:
    """Return the file that the daemon of a coordinator locks; it contains the process id."""
    suffix = "" if machine == DEFAULT_MACHINE else f"-{machine}"
    return f"{usable_root()}/daemon-{address.replace(':', '_')}-{port}{suffix}.lock"


def running_daemon(address: str, port: int, machine: str = DEFAULT_MACHINE) -> int | None:
    """Return the process id of the daemon of this user that serves a coordinator, None if there is none."""
    try:
        descriptor = open_own(lock_path(address, port, machine), os.O_RDWR)
    except FileNotFoundError:
        return None
    try:
        if _try(descriptor, fcntl.LOCK_SH):
            return None
        text = os.read(descriptor, 20)
        return int(text) if text.strip().isdigit() else None
    finally:
        os.close(descriptor)


@contextmanager
def daemon_lock(address: str, port: int, machine: str = DEFAULT_MACHINE) -> Iterator[None]:
    """Hold the lock of the daemon of a coordinator; raises `DoraError` if another process has it."""
    descriptor = open_own(lock_path(address, port, machine), os.O_RDWR | os.O_CREAT)
    try:
        while not _try(descriptor, fcntl.LOCK_EX):
            # A process that only reads it, as `running_daemon` does, shares it for a moment.
            if not _try(descriptor, fcntl.LOCK_SH):
                pid = os.read(descriptor, 20).decode(errors="replace").strip()
                raise DoraError(
                    f"a daemon of the coordinator at {address}:{port} is running already, "
                    f"with process id {pid}"
                )
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            time.sleep(_POLL_INTERVAL)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
        yield
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _try(descriptor: int, kind: int) -> bool:
    """Lock a file, unless another process has done so."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


# Where the process of a dataflow keeps its files and its socket on this machine.


def run_id(start: StartRun) -> str:
    """Return an id for this machine's part, as other daemons may be on the same machine; "": the usual."""
    if start.partition.machine == DEFAULT_MACHINE:
        return ""
    from hashlib import sha256

    digest = sha256(f"{start.dataflow_id} {start.partition.machine}".encode()).hexdigest()
    return f"{start.dataflow_id[:-12]}{digest[:12]}"


def socket_of(start: StartRun) -> str:
    """Return the path of the control socket of a dataflow."""
    return f"{run_path(run_id(start) or start.dataflow_id)}/{SOCKET_NAME}"
