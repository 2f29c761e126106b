"""A wheel of the running dora, for other environments.

It contains the installed files, also unpublished ones. The wheel of an editable installation points to the
same source.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from dora._paths import PACKAGE
from dora._shared_folders import write_file
from dora._version import INTERFACE, __version__
from dora.daemon.build.shadowing import NAME, metadata, stand_ins
from dora.errors import BuildError

if TYPE_CHECKING:
    from importlib.metadata import Distribution
    from zipfile import ZipInfo

_STEM = f"dora_dataflow-{__version__}"


def requirements() -> list[str]:
    """Return what dora requires, without its extras."""
    return [line for line in _distribution().requires or () if "extra ==" not in line]


def content_digest() -> str:
    """Return a digest of all files of this dora, as a wheel ``with_files`` has them; takes 60 ms."""
    import hashlib

    digest = hashlib.sha256()
    for name, data in sorted(_files(True).items()):
        digest.update(f"{name}\0{len(data)}\0".encode() + data)
    return digest.hexdigest()


def write_wheel(path: str, *, below: str | None = None, with_files: bool = False) -> None:
    """Write the wheel, unless there is the same one already; raises `BuildError`, ``OSError``.

    ``below`` as for `dora._shared_folders.write_file`; by default the folder of the wheel. ``with_files``:
    with all files, also of an editable installation, for another machine.
    """
    import io
    import zipfile

    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as wheel:
        names = []
        for name, data in sorted(_files(with_files).items()):
            wheel.writestr(_entry(name), data)
            names.append(name)
        record = f"{_STEM}.dist-info/RECORD"
        wheel.writestr(_entry(record), "".join(f"{name},,\n" for name in (*names, record)))
    try:
        with open(path, "rb") as file:
            if file.read() == content.getvalue():
                return
    except OSError:
        pass  # there is none that can be read
    write_file(path, content.getvalue(), below=below or os.path.dirname(path))


def _entry(name: str) -> ZipInfo:
    """Return an entry with a fixed time, so that equal content makes equal bytes."""
    from zipfile import ZIP_DEFLATED, ZipInfo

    entry = ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    entry.compress_type = ZIP_DEFLATED
    return entry


def _distribution() -> Distribution:
    from importlib.metadata import PackageNotFoundError, distribution  # takes 10 ms

    try:
        return distribution(NAME)
    except PackageNotFoundError:
        raise BuildError(
            "dora runs from a folder without being installed, so nodes with an environment of their own "
            "cannot get it; install it (pip install -e FOLDER)"
        ) from None


def _files(with_files: bool) -> dict[str, bytes]:
    source = _distribution()
    package = PACKAGE
    files: dict[str, bytes] = {}
    installed = str(source.locate_file("dora"))
    if with_files or os.path.realpath(installed) == os.path.realpath(package):
        for folder in (package, f"{package}_cli"):
            files |= _package(folder)
    else:
        files["dora_dataflow.pth"] = f"{os.path.dirname(package)}\n".encode()
    info = {
        "METADATA": source.read_text("METADATA"),
        "entry_points.txt": source.read_text("entry_points.txt"),
    }
    info["WHEEL"] = metadata(NAME, __version__)["WHEEL"]
    files |= {f"{_STEM}.dist-info/{name}": text.encode() for name, text in info.items() if text}
    for stem, texts in stand_ins(INTERFACE):
        folder = f"{_STEM}.data/purelib/{stem}.dist-info"
        files |= {f"{folder}/{name}": text.encode() for name, text in texts.items()}
    return files


def _package(folder: str) -> dict[str, bytes]:
    files = {}
    for where, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in names:
            path = os.path.join(where, name)
            with open(path, "rb") as file:
                files[os.path.relpath(path, os.path.dirname(folder))] = file.read()
    return files
