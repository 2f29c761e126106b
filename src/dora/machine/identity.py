"""Which machine a daemon stands for."""

from __future__ import annotations

import os
from collections.abc import Mapping

import msgspec

from dora.coordinator.protocol import DEFAULT_MACHINE
from dora.errors import DoraError
from dora.wire.control import TlsFiles


class Identity(msgspec.Struct, frozen=True):
    """``address`` is where other machines reach this one; "": where the coordinator sees it."""

    machine: str = DEFAULT_MACHINE
    labels: dict[str, str] = {}
    address: str = ""
    tls: TlsFiles | None = None


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


def tls_from(environ: Mapping[str, str]) -> TlsFiles | None:
    """Return the files that ``DORA_TLS_CA``, ``DORA_TLS_CERT`` and ``DORA_TLS_KEY`` name; None without.

    Raises `DoraError` if only some of them are set, or a file cannot be read.
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
    return TlsFiles(*(os.path.abspath(path) for path in found))
