"""Certificates of a test's own authority, made by openssl."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def certify(folder: Path, name: str, address: str, authority: str = "ca") -> None:
    """Make ``<name>.pem`` and ``<name>.key`` for a host, signed by ``<authority>.pem`` of this folder.

    Skips the test where openssl is missing.
    """
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificates, and is not there")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    if not (folder / f"{authority}.pem").exists():
        files = ("-keyout", f"{authority}.key", "-out", f"{authority}.pem", "-days", "2")
        openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={authority}", *files)
    files = ("-keyout", f"{name}.key", "-out", f"{name}.csr")
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", *files)
    (folder / "extensions").write_text(f"subjectAltName=IP:{address}\n")
    signed = ("-CA", f"{authority}.pem", "-CAkey", f"{authority}.key", "-CAcreateserial", "-days", "2")
    openssl(
        *("x509", "-req", "-in", f"{name}.csr", *signed, "-extfile", "extensions", "-out", f"{name}.pem")
    )
