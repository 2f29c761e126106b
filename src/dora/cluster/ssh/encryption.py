"""Whether a cluster is encrypted: yes, until `--no-tls` says otherwise. This machine records the choice."""

from __future__ import annotations

import os

import msgspec

from dora._paths import LOOPBACK, NO_TLS, data_folder
from dora._shared_folders import check_folder_if_there
from dora.cluster.ssh.file import Cluster
from dora.errors import cannot_write


def with_choice(cluster: Cluster) -> Cluster:
    """Return a cluster as `choose_tls` was called last; one with certificates of the user stays."""
    if cluster.authority or not os.path.exists(_note(cluster)):
        return cluster
    return msgspec.structs.replace(cluster, authority=NO_TLS)


def is_encrypted(cluster: Cluster) -> bool:
    """Return whether the connections of a cluster have TLS. On loopback they need none."""
    return cluster.authority != NO_TLS and (bool(cluster.authority) or cluster.address not in LOOPBACK)


def choose_tls(cluster: Cluster, tls: bool) -> None:
    """Note whether a cluster is encrypted; raises `DoraError`."""
    note = _note(cluster)
    try:
        if tls:
            if os.path.exists(note):
                os.unlink(note)
            return
        check_folder_if_there(os.path.dirname(note), below=data_folder())
        os.makedirs(os.path.dirname(note), mode=0o700, exist_ok=True)
        os.close(os.open(note, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise cannot_write(note, error) from None


def _note(cluster: Cluster) -> str:
    return f"{data_folder()}/tls/no-tls-{cluster.address.replace(':', '_')}-{cluster.port}"
