"""The certificate authority of a cluster, and the certificates that it signs (`dora cluster up --tls`).

Each address of a coordinator has an authority, in a folder of this user. The key of a machine is made here,
goes to that machine, and is not kept; its certificate is, for `dora cluster status`. Needs the package
``cryptography``, except to see whether there is an authority.
"""

from __future__ import annotations

import datetime
import fcntl
import ipaddress
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import msgspec

from dora._paths import data_folder
from dora._shared_folders import check_folder_if_there, open_file
from dora.cluster.ssh.file import Cluster, Machine
from dora.errors import DoraError, cannot_write

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

AUTHORITY_VALIDITY: Final = datetime.timedelta(days=3650)
VALIDITY: Final = datetime.timedelta(days=365)
RENEW_BEFORE: Final = datetime.timedelta(days=30)
CLOCK_TOLERANCE: Final = datetime.timedelta(days=1)  # by which the clock of a machine may be late

_COORDINATOR: Final = "coordinator.pem"  # certificate and key in one file, so they change together
_AUTHORITY: Final = "ca.pem"
_AUTHORITY_KEY: Final = "ca.key"


def folder_of(cluster: Cluster) -> str:
    """Return the folder of the authority of a cluster, which need not exist."""
    return f"{data_folder()}/tls/{cluster.address.replace(':', '_')}-{cluster.port}"


def with_own_authority(cluster: Cluster) -> Cluster:
    """Return a cluster with its authority, if one was made and the cluster file names no other."""
    folder = folder_of(cluster)
    if cluster.authority or not os.path.exists(f"{folder}/{_AUTHORITY}"):
        return cluster
    return msgspec.structs.replace(
        cluster,
        certificate=f"{folder}/{_COORDINATOR}",
        key=f"{folder}/{_COORDINATOR}",
        authority=f"{folder}/{_AUTHORITY}",
        own_authority=True,
    )


def remove_authority(cluster: Cluster) -> None:
    """Remove the authority with all that it has signed here; raises `DoraError`."""
    try:
        shutil.rmtree(folder_of(cluster))
    except FileNotFoundError:
        pass
    except OSError as error:
        raise DoraError(f"cannot remove {error.filename}: {error.strerror}") from None


class Authority:
    """The authority of a cluster, with its key. Raises `DoraError` if it cannot be used."""

    def __init__(self, cluster: Cluster) -> None:
        """Load the authority, or make it if there is none."""
        _check_installed()
        self._cluster = cluster
        self._folder = folder_of(cluster)
        with self._locked():
            if not os.path.exists(f"{self._folder}/{_AUTHORITY}"):
                self._make()
            self._load()
        remaining = self.certificate.not_valid_after_utc - _now()
        if remaining < RENEW_BEFORE:
            raise DoraError(
                f"the authority in {self._folder} expires on {_date(self.certificate)}; {self._remedy}"
            )

    @property
    def _remedy(self) -> str:
        file = self._cluster.file
        return (
            f"after `dora cluster down {file}`, remove that folder, and `dora cluster up --tls {file}` "
            "makes another authority"
        )

    def certify_coordinator(self) -> bool:
        """Make or renew the certificate of the coordinator; return whether there is a new one."""
        with self._locked():
            path = f"{self._folder}/{_COORDINATOR}"
            address = self._cluster.address
            try:
                with open(path, encoding="ascii") as file:
                    if self.is_good(_certificate_in(file.read()), address):
                        return False
            except FileNotFoundError:
                pass
            except (OSError, UnicodeDecodeError) as error:
                raise DoraError(f"cannot read {path}: {error}") from None
            self._write(_COORDINATOR, self.certify("coordinator", address))
            return True

    def certify_machine(self, machine: Machine, address: str) -> str:
        """Return a new key and a certificate for it, in one text; the certificate is kept here as well."""
        made = self.certify(machine.id, address)
        self._write(_name_of(machine), _certificate_in(made))
        return made

    def certify(self, name: str, address: str) -> str:
        """Return a new key and a certificate for it, as PEM in one text.

        The certificate is for both ends of a connection.
        """
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import ExtendedKeyUsageOID

        key = ec.generate_private_key(ec.SECP256R1())
        both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        end = min(_now() + VALIDITY, self.certificate.not_valid_after_utc)
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
        certificate = _sign(
            _builder(name, key.public_key(), self.certificate.subject, end, self.key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(both), critical=False)
            .add_extension(names, critical=False),
            self.key,
        )
        return _key_text(key) + certificate

    def is_good(self, certificate: str, address: str) -> bool:
        """Return whether a certificate is of this authority, for an address, and need not be renewed."""
        from cryptography import x509
        from cryptography.exceptions import InvalidSignature

        try:
            found = x509.load_pem_x509_certificate(certificate.encode())
            found.verify_directly_issued_by(self.certificate)
            names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
            return False
        fits = ipaddress.ip_address(address) in names.get_values_for_type(x509.IPAddress)
        return fits and found.not_valid_before_utc <= _now() < found.not_valid_after_utc - RENEW_BEFORE

    def _make(self) -> None:
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric import ec

        key = ec.generate_private_key(ec.SECP256R1())
        name = f"dora cluster at {self._cluster.address}:{self._cluster.port}"[:64]
        certificate = _sign(
            _builder(name, key.public_key(), _name(name), _now() + AUTHORITY_VALIDITY, key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True),
            key,
        )
        self._write(_AUTHORITY_KEY, _key_text(key))
        self._write(_AUTHORITY, certificate)  # last: it shows that the authority is there

    def _load(self) -> None:
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        path = f"{self._folder}/{_AUTHORITY_KEY}"
        try:
            with open(path, "rb") as file:
                key = load_pem_private_key(file.read(), None)
            path = f"{self._folder}/{_AUTHORITY}"
            with open(path, "rb") as file:
                self.certificate = x509.load_pem_x509_certificate(file.read())
            if not isinstance(key, ec.EllipticCurvePrivateKey):
                raise ValueError("it is not a key of this authority")
            if key.public_key() != self.certificate.public_key():
                raise ValueError(f"it does not belong to {_AUTHORITY_KEY}")
        except (OSError, ValueError, TypeError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise DoraError(f"cannot use {path}: {reason}; {self._remedy}") from None
        self.key: ec.EllipticCurvePrivateKey = key

    def _write(self, name: str, text: str) -> None:
        path = f"{self._folder}/{name}"
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            with open(os.open(f"{path}.new", flags, 0o600), "w", encoding="ascii") as file:
                file.write(text)
            os.replace(f"{path}.new", path)
        except OSError as error:
            raise cannot_write(path, error) from None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep out other commands, which would make an authority at the same time."""
        try:
            check_folder_if_there(self._folder, below=data_folder())
            os.makedirs(self._folder, mode=0o700, exist_ok=True)
            os.chmod(self._folder, 0o700)
            lock = open_file(f"{self._folder}/lock", os.O_RDWR | os.O_CREAT, mode=0o600)
        except OSError as error:
            raise cannot_write(self._folder, error) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


def first_expiry(cluster: Cluster) -> datetime.datetime | None:
    """Return when the first certificate of coordinator and machines expires; None if none is known."""
    try:
        from cryptography import x509
    except ImportError:
        return None

    found = []
    for name in (_COORDINATOR, *map(_name_of, cluster.machines)):
        try:
            with open(f"{folder_of(cluster)}/{name}", encoding="ascii") as file:
                text = _certificate_in(file.read())
            found.append(x509.load_pem_x509_certificate(text.encode()).not_valid_after_utc)
        except (OSError, ValueError):
            continue  # there is no machine of that name yet, or it was not reached so far
    return min(found, default=None)


def expires_soon(end: datetime.datetime) -> bool:
    """Return whether a certificate that ends then is about to be renewed."""
    return end - _now() < RENEW_BEFORE


def _check_installed() -> None:
    try:
        import cryptography.x509  # noqa: F401
    except ImportError:
        raise DoraError(
            "the certificates of the cluster need the package cryptography, which is not installed: "
            "pip install 'dora-dataflow[tls]'"
        ) from None


def _name_of(machine: Machine) -> str:
    return f"machine-{machine.id}.pem"


def _certificate_in(text: str) -> str:
    """Return the certificate that follows a key in a text."""
    return text[max(0, text.find("-----BEGIN CERTIFICATE-----")) :]


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _date(certificate: x509.Certificate) -> str:
    return f"{certificate.not_valid_after_utc:%Y-%m-%d}"


def _name(text: str) -> x509.Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _builder(
    name: str,
    public_key: ec.EllipticCurvePublicKey,
    issuer: x509.Name,
    end: datetime.datetime,
    issuer_key: ec.EllipticCurvePublicKey,
) -> x509.CertificateBuilder:
    """Return what all certificates have in common."""
    from cryptography import x509

    return (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_now() - CLOCK_TOLERANCE)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    from cryptography import x509

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
    from cryptography.hazmat.primitives import hashes, serialization

    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def _key_text(key: ec.EllipticCurvePrivateKey) -> str:
    from cryptography.hazmat.primitives import serialization as form

    return key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption()).decode()
