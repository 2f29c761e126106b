"""A certificate authority in a folder of this user, and the certificates that it signs.

The certificate of a server names the addresses at which it is reached. The certificate of a machine, for
links, names the machine (`dora.transport.tls.machine_name`), so it stays the same when its address changes.

The import of `cryptography` takes time, so others import this module when they need a certificate.

A coordinator makes an authority for itself. Clients need not know it, because the coordinator proves its
certificate by the token (`dora.transport.proof`); a browser may import it.
"""

from __future__ import annotations

import datetime
import fcntl
import ipaddress
import os
import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from dora._paths import ALL_INTERFACES, data_folder
from dora._shared_folders import check_folder_if_there, open_file
from dora.errors import DoraError, cannot_write
from dora.transport.tls import ServerContext, machine_name, server_context

AUTHORITY_VALIDITY: Final = datetime.timedelta(days=3650)
VALIDITY: Final = datetime.timedelta(days=365)
RENEW_BEFORE: Final = datetime.timedelta(days=30)
CLOCK_TOLERANCE: Final = datetime.timedelta(days=1)  # by which the clock of a browser may be late
# The certificates of links begin here. A board without a battery starts at some time in the past, and has
# to reach the others before it can set its clock.
_EARLY: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)

SERVER: Final = "coordinator.pem"  # certificate and key in one file, so they change together
CERTIFICATE: Final = "ca.pem"
_KEY: Final = "ca.key"
_BEGIN: Final = "-----BEGIN CERTIFICATE-----"


class Signer:
    """The key of an authority, and its certificate."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        self.key = key
        self.certificate = certificate

    @classmethod
    def new(cls, name: str) -> Signer:
        """Make an authority; ``name`` is for people."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _sign(
            _builder(
                name, key.public_key(), _name(name), (_EARLY, _now() + AUTHORITY_VALIDITY), key.public_key()
            )
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True),
            key,
        )
        return cls(key, x509.load_pem_x509_certificate(certificate.encode()))

    @property
    def text(self) -> str:
        """Its certificate, as PEM."""
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    def certify(self, name: str, *, hosts: Sequence[str] = ()) -> str:
        """Return a new key and a certificate for it, as PEM in one text.

        It is the certificate of a server with these addresses and names, without them of the machine
        ``name``. It is for both ends of a connection.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        return _key_text(key) + self._certificate(name, key.public_key(), hosts)

    def sign(self, request: str, machine: str) -> str:
        """Return a certificate of a machine for the key of a certificate signing request, both as PEM.

        The names in the request do not count. Raises ``ValueError``.
        """
        found = x509.load_pem_x509_csr(request.encode())
        key = found.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey) or not found.is_signature_valid:
            raise ValueError("it is not signed with an elliptic key")
        return self._certificate(machine, key, ())

    def _certificate(self, name: str, key: ec.EllipticCurvePublicKey, hosts: Sequence[str]) -> str:
        both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        begin, end = _EARLY, self.certificate.not_valid_after_utc
        if hosts:  # browsers want a short time; the one of a machine goes with its daemon
            begin, end = _now() - CLOCK_TOLERANCE, min(_now() + VALIDITY, end)
        names = _names(hosts) if hosts else [x509.UniformResourceIdentifier(machine_name(name))]
        return _sign(
            _builder(name, key, self.certificate.subject, (begin, end), self.key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(both), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False),
            self.key,
        )

    def is_good(self, certificate: str, hosts: Sequence[str]) -> bool:
        """Return whether a certificate is of this authority, for all these hosts, and for a while yet."""
        try:
            found = x509.load_pem_x509_certificate(certificate.encode())
            found.verify_directly_issued_by(self.certificate)
            names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
            return False  # it is of another authority, or no certificate: a new one takes its place
        fits = {*_names(hosts)} <= {*names}
        return fits and found.not_valid_before_utc <= _now() < found.not_valid_after_utc - RENEW_BEFORE


class Authority(Signer):
    """An authority in a folder."""

    def __init__(self, folder: str, name: str, remedy: str) -> None:
        """Load the authority in a folder, or make it if there is none.

        ``name`` is for people. ``remedy`` ends the sentence of the `DoraError` if it cannot be used.
        """
        self.folder = folder
        self._remedy = remedy
        with self._locked():
            if not os.path.exists(f"{folder}/{CERTIFICATE}"):
                self._make(name)
            found = self._load()
        super().__init__(found.key, found.certificate)
        if self.certificate.not_valid_after_utc - _now() < RENEW_BEFORE:
            raise DoraError(f"the authority in {folder} expires on {_date(self.certificate)}; {remedy}")

    @property
    def file(self) -> str:
        """The path of its certificate."""
        return f"{self.folder}/{CERTIFICATE}"

    def certify_server(self, hosts: Sequence[str]) -> bool:
        """Make or renew the certificate of the server in this folder; return whether there is a new one.

        ``hosts`` are its addresses and names.
        """
        with self._locked():
            path = f"{self.folder}/{SERVER}"
            try:
                with open(path, encoding="ascii") as file:
                    if self.is_good(certificate_in(file.read()), hosts):
                        return False
            except FileNotFoundError:
                pass  # the first start: it is made below
            except (OSError, UnicodeDecodeError) as error:
                raise DoraError(f"cannot read {path}: {error}") from None
            self.write(SERVER, self.certify("coordinator", hosts=hosts))
            return True

    def _make(self, name: str) -> None:
        made = Signer.new(name)
        self.write(_KEY, _key_text(made.key))
        self.write(CERTIFICATE, made.text)  # last: it shows that the authority is there

    def _load(self) -> Signer:
        path = f"{self.folder}/{_KEY}"
        try:
            with open(path, "rb") as file:
                key = serialization.load_pem_private_key(file.read(), None)
            path = self.file
            with open(path, "rb") as file:
                certificate = x509.load_pem_x509_certificate(file.read())
            if not isinstance(key, ec.EllipticCurvePrivateKey):
                raise ValueError("it is not a key of this authority")
            if key.public_key() != certificate.public_key():
                raise ValueError(f"it does not belong to {_KEY}")
        except (OSError, ValueError, TypeError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise DoraError(f"cannot use {path}: {reason}; {self._remedy}") from None
        return Signer(key, certificate)

    def write(self, name: str, text: str) -> None:
        """Write a file of its folder, for this user only; raises `DoraError`."""
        path = f"{self.folder}/{name}"
        try:
            write_for_user(path, text)
        except OSError as error:
            raise cannot_write(path, error) from None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep out other processes, which would make an authority at the same time."""
        try:
            check_folder_if_there(self.folder, below=data_folder())
            os.makedirs(self.folder, mode=0o700, exist_ok=True)
            os.chmod(self.folder, 0o700)
            lock = open_file(f"{self.folder}/lock", os.O_RDWR | os.O_CREAT, mode=0o600)
        except OSError as error:
            raise cannot_write(self.folder, error) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)  # no time limit: the holder only makes keys and small files
            yield
        finally:
            os.close(lock)


def write_for_user(path: str, text: str) -> None:
    """Replace a file by one that only this user reads, at once; raises ``OSError``."""
    # Not in place: a reader, or the next start after a crash, would meet half a key.
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(os.open(f"{path}.new", flags, 0o600), "w", encoding="ascii") as file:
            file.write(text)
        os.replace(f"{path}.new", path)
    except OSError:
        with suppress(OSError):
            os.unlink(f"{path}.new")
        raise


def new_request(machine: str) -> tuple[str, str]:
    """Return a new key, and the request that its certificate be signed, both as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(_name(machine))
    signed = request.sign(key, hashes.SHA256())
    return _key_text(key), signed.public_bytes(serialization.Encoding.PEM).decode()


def certificate_in(text: str) -> str:
    """Return the certificate that follows a key in a text."""
    return text[max(0, text.find(_BEGIN)) :]


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _date(certificate: x509.Certificate) -> str:
    return f"{certificate.not_valid_after_utc:%Y-%m-%d}"


def _names(hosts: Sequence[str]) -> list[x509.GeneralName]:
    found: list[x509.GeneralName] = []
    for host in hosts:
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            found.append(x509.DNSName(host))
    return found


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _builder(
    name: str,
    public_key: ec.EllipticCurvePublicKey,
    issuer: x509.Name,
    validity: tuple[datetime.datetime, datetime.datetime],
    issuer_key: ec.EllipticCurvePublicKey,
) -> x509.CertificateBuilder:
    """Return what all certificates have in common."""
    return (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(validity[0])
        .not_valid_after(validity[1])
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _sign(builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey) -> str:
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def _key_text(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


# The authority of a coordinator.


def own_authority(port: int) -> Authority:
    """Return the authority of the coordinator at a port, which is made if there is none.

    Raises `DoraError`.
    """
    folder = f"{data_folder()}/tls/coordinator-{port}"
    remedy = "remove that folder, and the next start of the coordinator makes another authority"
    return Authority(folder, f"dora coordinator of {socket.gethostname()}, port {port}", remedy)


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
