"""Print the interpreters of this machine to test with: the oldest and the newest, or the only one.

Each is of a version that the classifiers of pyproject.toml name. They are looked for as `python3` and
`python3.N` on the PATH, in /usr/bin, and among the versions of pyenv.

    python3 tools/find_pythons.py
"""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).parent.parent / "pyproject.toml"
PREFIX = "Programming Language :: Python :: "
PYENV = os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv"))


def named_versions(pyproject: Path = PYPROJECT) -> list[tuple[int, int]]:
    """Return the versions that the classifiers name."""
    classifiers = tomllib.loads(pyproject.read_text())["project"]["classifiers"]
    names = [text.removeprefix(PREFIX).split(".") for text in classifiers if text.startswith(PREFIX)]
    return sorted((int(major), int(minor)) for major, minor in names)


def find(folders: list[str], versions: list[tuple[int, int]]) -> dict[tuple[int, int], str]:
    """Return an interpreter for each version that there is, from the first folder that has one."""
    found: dict[tuple[int, int], str] = {}
    # `python3` of all folders first: users have the Python of their system, under this name.
    for name in ("python3", *(f"python{major}.{minor}" for major, minor in versions)):
        for folder in folders:
            path = os.path.join(folder, name)
            version = version_of(path) if os.path.exists(path) else None
            if version in versions:
                found.setdefault(version, path)
    return found


def version_of(path: str) -> tuple[int, int] | None:
    """Return the version of an interpreter; None if it does not run, like some stand-ins of pyenv."""
    code = "import sys; print(*sys.version_info[:2])"
    try:
        done = subprocess.run([path, "-S", "-E", "-c", code], capture_output=True, text=True, timeout=60)
        major, minor = done.stdout.split()
        return int(major), int(minor)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None


def main() -> None:
    folders = [*os.environ.get("PATH", os.defpath).split(os.pathsep), "/usr/bin"]
    folders += sorted(map(str, Path(PYENV, "versions").glob("*/bin")), reverse=True)
    found = find(folders, named_versions())
    if not found:
        sys.exit("there is no Python here that the classifiers of pyproject.toml name")
    for version in sorted({min(found), max(found)}):
        print(found[version])


if __name__ == "__main__":
    main()
