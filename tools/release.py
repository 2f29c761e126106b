"""Build, check and publish a release: ``make release REPOSITORY=https://github.com/OWNER/dora``.

The steps: an sdist, and a wheel built from it, in ``dist``; ``twine check``; the wheel in a fresh virtual
environment, where ``dora demo`` runs; the upload to PyPI, only with ``--upload``. Nothing is uploaded if a
step before fails.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from zipfile import ZipFile

ROOT = Path(__file__).parent.parent
DIST = ROOT / "dist"
IN_SDIST = (
    "Makefile",
    "CHANGELOG.md",
    "SECURITY.md",
    "docs/index.md",
    "tests/conftest.py",
    "tools/make_venv.py",
)
IN_WHEEL = (
    "dora/__init__.py",
    "dora/py.typed",
    "dora/assets/dashboard.js",
    "dora/assets/demo/dataflow.yml",
)


def main() -> None:
    parser = argparse.ArgumentParser(description="Build, check and publish a release.")
    parser.add_argument("repository", metavar="REPOSITORY", help="its address, https://…")
    parser.add_argument("--upload", action="store_true", help="upload to PyPI; twine asks for the token")
    parser.add_argument(
        "--allow-dirty", action="store_true", help="also with changes that are not committed"
    )
    options = parser.parse_args()
    if not re.fullmatch(r"https://[\w.-]+/\S+", options.repository):
        parser.error(f"REPOSITORY is the address of the repository, https://…, not `{options.repository}`")
    try:
        if not options.allow_dirty:
            check_tree()
        version = read_version()
        if options.upload:
            check_changelog(version)
        files = build(options.repository)
        check_contents(files)
        run(sys.executable, "-m", "twine", "check", "--strict", *map(str, files))
        try_wheel(files[1])
    except subprocess.CalledProcessError as error:
        sys.exit(f"error: `{' '.join(map(str, error.cmd))}` failed with exit status {error.returncode}")
    except ReleaseError as error:
        sys.exit(f"error: {error}")
    if not options.upload:
        print(
            f"dora-dataflow {version} is in dist/, checked. `make release UPLOAD=--upload` uploads it too."
        )
        return
    try:
        run(sys.executable, "-m", "twine", "upload", *map(str, files))
    except subprocess.CalledProcessError:
        sys.exit("error: the upload failed; see above")


class ReleaseError(Exception):
    """Why nothing can be released."""


def run(*command: str, **options: object) -> None:
    subprocess.run(command, check=True, cwd=options.pop("cwd", ROOT), **options)  # type: ignore[call-overload]


def check_tree() -> None:
    status = subprocess.run(
        ["git", "status", "--porcelain"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    if status:
        raise ReleaseError(f"there are changes that are not committed:\n{status}")


def read_version() -> str:
    found = re.search(r'^__version__ = "(.+?)"', (ROOT / "src/dora/_version.py").read_text(), re.M)
    if found is None:
        raise ReleaseError("src/dora/_version.py has no __version__")
    return found[1]


def check_changelog(version: str) -> None:
    """Raise `ReleaseError` unless the changelog has a dated section of the version."""
    if not re.search(
        rf"^## {re.escape(version)} \(\d{{4}}-\d\d-\d\d\)", (ROOT / "CHANGELOG.md").read_text(), re.M
    ):
        raise ReleaseError(
            f"CHANGELOG.md has no dated section {version}: set __version__ in src/dora/_version.py, run "
            "`make changelog VERSION=…`, and commit"
        )


def build(repository: str) -> tuple[Path, Path]:
    """Build into an empty ``dist``; return the sdist and the wheel."""
    shutil.rmtree(DIST, ignore_errors=True)
    run(sys.executable, "-m", "build", env={**os.environ, "DORA_REPOSITORY": repository})
    return next(DIST.glob("*.tar.gz")), next(DIST.glob("*.whl"))


def check_contents(files: tuple[Path, Path]) -> None:
    with tarfile.open(files[0]) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    with ZipFile(files[1]) as wheel:
        missing = [*sorted({*IN_SDIST} - names), *sorted({*IN_WHEEL} - {*wheel.namelist()})]
    if missing:
        raise ReleaseError(f"missing in the files: {', '.join(missing)}")


def try_wheel(wheel: Path) -> None:
    """Install the wheel in a fresh environment, and run the demo there."""
    with tempfile.TemporaryDirectory(prefix="dora-release-") as folder:
        run(sys.executable, "tools/make_venv.py", f"{folder}/venv")
        python = f"{folder}/venv/bin/python"
        run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"{wheel}[examples]")
        run(python, "-m", "dora", "--version", cwd=folder)
        run(python, "-m", "dora", "demo", cwd=folder, env={**os.environ, "FRAMES": "60"})
        if not Path(folder, "dora-demo/out/detections.png").exists():
            raise ReleaseError("`dora demo` wrote no picture")


if __name__ == "__main__":
    main()
