"""Make a virtual environment with pip, also where Python came without ensurepip.

Debian and Ubuntu keep ensurepip in a package of its own (python3-venv). Without it, pip's wheel is
fetched from PyPI, checked against the index's hash, and asked to install itself.

    python3 tools/make_venv.py .venv
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from urllib.parse import urljoin

INDEX = "https://pypi.org/pypi/pip/json"


def main(folder: str) -> None:
    try:
        import ensurepip  # noqa: F401 - is it there?
    except ImportError:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        install_pip(Path(folder, "bin", "python"))
    else:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)


def install_pip(python: Path) -> None:
    with urllib.request.urlopen(INDEX, timeout=60) as reply:
        files = json.load(reply)["urls"]
    wheel = next(file for file in files if file["packagetype"] == "bdist_wheel")
    with urllib.request.urlopen(urljoin(INDEX, wheel["url"]), timeout=60) as reply:
        content = reply.read()
    if hashlib.sha256(content).hexdigest() != wheel["digests"]["sha256"]:
        sys.exit("pip's wheel was damaged on its way; try again")
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, wheel["filename"])
        path.write_bytes(content)
        subprocess.run([python, f"{path}{os.sep}pip", "install", "--quiet", path], check=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: make_venv.py FOLDER")
    try:
        main(sys.argv[1])
    except OSError as error:
        sys.exit(
            f"cannot fetch pip from PyPI ({error}). On Debian and Ubuntu, `apt install python3-venv` "
            "brings it along"
        )
