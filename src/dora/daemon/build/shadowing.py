"""Keeps installers from replacing dora by the distributions ``dora-rs`` and ``dora-rs-cli``.

Published node packages require ``dora-rs`` in some version: ``>=0.3.9``, ``==0.3.5``, ``<0.4``. By
default, pip would install files that overwrite ``dora/``. Three documented features of the installers keep
them out; nothing is patched:

- Our wheel brings the metadata of a distribution ``dora-rs 1.1.0+dora.dataflow`` that has no files
  (``tools/hatch_build.py``). It meets every open requirement, also when pip is called by hand, and is
  uninstalled with dora.
- A build sets ``PIP_FIND_LINKS`` to a folder with such distributions for every release there was. A
  version with a local part meets the same pins and comes before the one without: ``==0.3.5`` is met by
  ``0.3.5+dora.dataflow``.
- ``UV_OVERRIDE`` makes uv ignore every requirement of ``dora-rs``.

Since these are environment variables, they also reach an installer that a build script calls.
"""

from __future__ import annotations

import shlex
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping

PROVIDED = ("dora-rs", "dora-rs-cli")
"""The distributions that are never installed, because dora takes their place."""

NAME = "dora-dataflow"
"""The distribution that dora is."""

LOCAL = "dora.dataflow"
_RELEASES_TEXT = """
0.1.0 0.1.1 0.1.2 0.1.3 0.2.0 0.2.1 0.2.2 0.2.3 0.2.4 0.2.5 0.2.6 0.3.0 0.3.1 0.3.2 0.3.3 0.3.4 0.3.5 0.3.6
0.3.7 0.3.8 0.3.9 0.3.10 0.3.11 0.3.12 0.3.13 0.4.0 0.4.1 0.5.0 1.0.0 1.0.1 1.1.0
"""
_RELEASES = _RELEASES_TEXT.split()


def is_displaced() -> bool:
    """Return whether ``import dora`` means dora-rs, now or in the next process of this environment."""
    import dora

    return not hasattr(dora, "__implementation__") or has_upstream(sysconfig.get_path("purelib"))


def has_upstream(folder: str) -> bool:
    """Return whether the package ``dora`` in a folder of packages is dora-rs's.

    Its wheel, unpacked over ours, replaces ``__init__.py`` and leaves most other files.
    """
    try:
        with open(f"{folder}/dora/__init__.py", "rb") as file:
            return b"from .dora import" in file.read(4096)
    except OSError:
        return False


def mend() -> str:
    """Return the commands that restore the files of dora from their origin."""
    pip = f"{shlex.quote(sys.executable)} -m pip"
    return (
        f"{pip} uninstall -y {' '.join(PROVIDED)} && "
        f"{pip} install --force-reinstall --no-deps {_where_from()}"
    )


def _where_from() -> str:
    """Return the requirement for pip: dora's name on PyPI, or the folder or file of its origin."""
    import json
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        origin = json.loads(distribution(NAME).read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError):
        return NAME
    url = shlex.quote(origin.get("url", "")) if "url" in origin else NAME
    return f"-e {url}" if origin.get("dir_info", {}).get("editable") else url


def installer_environment(folder: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that keep installers from bringing ``dora-rs``; fills ``folder`` for them."""
    from pathlib import Path

    for name in PROVIDED:
        for release in _RELEASES:
            write_stand_in(folder, name, f"{release}+{LOCAL}")
    override = f"{folder}/override.txt"
    Path(override).write_text("".join(f"{name} ; python_version < '0'\n" for name in PROVIDED))
    links = Path(folder).as_uri()
    return {
        "PIP_FIND_LINKS": f"{environ.get('PIP_FIND_LINKS', '')} {links}".strip(),
        "UV_OVERRIDE": f"{environ.get('UV_OVERRIDE', '')} {override}".strip(),
    }


def stand_ins(interface: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the distributions that come with ours: the stem of their folder, and its files.

    ``interface`` is `dora._version.INTERFACE`: this module does not import it, because dora is not
    installed where our wheel is built. Each has a ``RECORD``, so that pip can take it away for another one.
    """
    for name in PROVIDED:
        stem = _stem(name, f"{interface}+{LOCAL}")
        files = metadata(name, f"{interface}+{LOCAL}")
        yield stem, {**files, "RECORD": _record(f"{stem}.dist-info/{file}" for file in (*files, "RECORD"))}


def metadata(name: str, version: str) -> dict[str, str]:
    """Return the files of a distribution's ``.dist-info`` folder, all but its ``RECORD``."""
    return {
        "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        "Summary: Provided by dora-dataflow\n",
        "WHEEL": "Wheel-Version: 1.0\nGenerator: dora-dataflow\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }


def write_stand_in(folder: str, name: str, version: str) -> None:
    """Write the wheel of a distribution without files."""
    import zipfile  # 8 ms, not for those who only ask

    stem = _stem(name, version)
    files = {f"{stem}.dist-info/{file}": text for file, text in metadata(name, version).items()}
    record = f"{stem}.dist-info/RECORD"
    with zipfile.ZipFile(f"{folder}/{stem}-py3-none-any.whl", "w") as wheel:
        for file, text in files.items():
            wheel.writestr(file, text)
        wheel.writestr(record, _record((*files, record)))


def _stem(name: str, version: str) -> str:
    return f"{name.replace('-', '_')}-{version}"


def _record(files: Iterable[str]) -> str:
    return "".join(f"{file},,\n" for file in files)
