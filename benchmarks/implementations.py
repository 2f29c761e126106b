"""Find the two implementations; make the venv that upstream lives in."""

import argparse
import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.runner import Implementation

REPOSITORY = Path(__file__).parent.parent
UPSTREAM_VERSION = "1.1.0"
DEFAULT_UPSTREAM = REPOSITORY / ".venv-upstream"


def ours() -> Implementation:
    """Return the dora of the interpreter that runs the benchmarks."""
    return Implementation("dora", (sys.executable, "-m", "dora"), Path(sys.prefix))


def add_upstream_venv(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--upstream-venv``."""
    parser.add_argument(
        "--upstream-venv",
        type=Path,
        metavar="FOLDER",
        default=DEFAULT_UPSTREAM,
        help="the venv with dora-rs, made when it does not exist (default: .venv-upstream)",
    )


def upstream(folder: Path = DEFAULT_UPSTREAM) -> Implementation:
    """Return dora-rs from the venv at `folder`, made when it does not exist (100 MB are downloaded).

    numpy and pyarrow get the versions that ours runs with, so that they are no part of the difference.
    Raises SystemExit with a sentence when the venv cannot be made or holds another version.
    """
    folder = Path(os.path.abspath(folder))
    command = folder / "bin" / "dora"
    if not command.exists():
        packages = [
            f"dora-rs=={UPSTREAM_VERSION}",
            f"dora-rs-cli=={UPSTREAM_VERSION}",
            *(f"{name}=={version(name)}" for name in ("numpy", "pyarrow")),
        ]
        print(f"making {folder} with {', '.join(packages)}", file=sys.stderr)
        _run([sys.executable, "-m", "venv", str(folder)])
        _run([str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", *packages])
    found = subprocess.run([command, "--version"], capture_output=True, text=True).stdout.split()
    if UPSTREAM_VERSION not in found:
        raise SystemExit(
            f"error: {command} is not dora-rs {UPSTREAM_VERSION}; remove {folder} so that it is made anew."
        )
    return Implementation("dora-rs", (str(command),), folder)


def versions() -> dict[str, str]:
    """Return the versions of what takes part on our side, by distribution name."""
    names = ("dora-dataflow", "iceoryx2", "eclipse-zenoh", "pyarrow", "numpy", "msgspec")
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _run(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        tail = (result.stderr or result.stdout).strip().splitlines()[-3:]
        raise SystemExit(f"error: `{' '.join(command)}` failed: " + " ".join(tail))
