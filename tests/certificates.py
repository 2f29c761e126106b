"""Certificates of a test's own authority, made by the commands of the manual."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

PAGE = Path(__file__).parent.parent / "docs/how-to/several-machines.md"


def recipe() -> list[str]:
    """Return the commands of the manual: one makes the authority, the others the certificate of `robot`."""
    text = PAGE.read_text()
    start = text.index("openssl req -x509")
    return text[start : text.index("```", start)].splitlines()


def certify(folder: Path, name: str, address: str, authority: str = "ca") -> None:
    """Make ``<name>.pem`` and ``<name>.key`` for a host, signed by ``<authority>.pem`` of this folder.

    Skips the test where openssl is missing.
    """
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificates, and is not there")
    make_authority, *commands = recipe()
    if not (folder / f"{authority}.pem").exists():
        commands.insert(0, make_authority)
    for command in commands:
        for shown, wanted in (
            ("192.168.1.11", address),
            ("robot", name),
            ("/CN=authority", f"/CN={authority}"),
            *((f"ca.{end}", f"{authority}.{end}") for end in ("key", "pem")),
        ):
            command = command.replace(shown, wanted)
        subprocess.run(command, shell=True, cwd=folder, check=True, capture_output=True)
