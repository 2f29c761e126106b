"""The certificate authority of a cluster: where it is, and how long its certificates last.

Each address of a coordinator has an authority. The key of a machine is made here, goes to that machine, and
is not kept; its certificate is, for `dora cluster status`.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import msgspec

from dora._paths import data_folder
from dora.cluster.authority import CERTIFICATE, SERVER, Authority, certificate_in
from dora.cluster.ssh.file import Cluster, Machine
from dora.errors import DoraError

if TYPE_CHECKING:
    import datetime


def folder_of(cluster: Cluster) -> str:
    """Return the folder of the authority of a cluster, which need not exist."""
    return f"{data_folder()}/tls/{cluster.address.replace(':', '_')}-{cluster.port}"


def with_own_authority(cluster: Cluster) -> Cluster:
    """Return a cluster with its authority, if one was made and the cluster file names no other."""
    folder = folder_of(cluster)
    if cluster.authority or not os.path.exists(f"{folder}/{CERTIFICATE}"):
        return cluster
    return msgspec.structs.replace(
        cluster,
        certificate=f"{folder}/{SERVER}",
        key=f"{folder}/{SERVER}",
        authority=f"{folder}/{CERTIFICATE}",
        own_authority=True,
    )


def authority_of(cluster: Cluster) -> Authority:
    """Return the authority of a cluster, which is made if there is none; raises `DoraError`."""
    remedy = (
        f"after `dora cluster down {cluster.file}`, remove that folder, and `dora cluster up --tls "
        f"{cluster.file}` makes another authority"
    )
    return Authority(folder_of(cluster), f"dora cluster at {cluster.address}:{cluster.port}", remedy)


def certify_machine(authority: Authority, machine: Machine) -> str:
    """Return a new key and a certificate for it, in one text; the certificate is kept here as well."""
    made = authority.certify(machine.id)
    authority.write(_name_of(machine), certificate_in(made))
    return made


def remove_authority(cluster: Cluster) -> None:
    """Remove the authority with all that it has signed here; raises `DoraError`."""
    try:
        shutil.rmtree(folder_of(cluster))
    except FileNotFoundError:
        pass
    except OSError as error:
        raise DoraError(f"cannot remove {error.filename}: {error.strerror}") from None


def first_expiry(cluster: Cluster) -> datetime.datetime | None:
    """Return when the first certificate of coordinator and machines expires; None if none is known."""
    from cryptography import x509

    found = []
    for name in (SERVER, *map(_name_of, cluster.machines)):
        try:
            with open(f"{folder_of(cluster)}/{name}", encoding="ascii") as file:
                text = certificate_in(file.read())
            found.append(x509.load_pem_x509_certificate(text.encode()).not_valid_after_utc)
        except (OSError, ValueError):
            continue  # there is no machine of that name yet, or it was not reached so far
    return min(found, default=None)


def _name_of(machine: Machine) -> str:
    return f"machine-{machine.id}.pem"
