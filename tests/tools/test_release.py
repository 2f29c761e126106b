"""The release: what is refused, and what PyPI will show."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_links_and_images_of_the_readme_work_on_pypi() -> None:
    with_absolute_links = load("hatch_metadata").with_absolute_links
    text = with_absolute_links((ROOT / "README.md").read_text(), "https://example.org/dora")
    targets = re.findall(r"\]\(([^)]+)\)|<img src=\"([^\"]+)", text)
    assert len(targets) > 10
    for target in ("".join(both) for both in targets):
        assert target.startswith(("https://", "#")), target
    assert "(https://example.org/dora/raw/main/docs/images/graph.png)" in text
    assert "(https://example.org/dora/blob/main/docs/start.md)" in text


def test_an_upload_needs_a_dated_section_of_the_changelog() -> None:
    release = load("release")
    with pytest.raises(release.ReleaseError, match=r"no dated section 99\.0\.0"):
        release.check_changelog("99.0.0")


@pytest.mark.parametrize("address", ["", "dora", "http://example.org/dora", "https://example.org"])
def test_the_address_of_the_repository_is_checked(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["release.py", address])
    with pytest.raises(SystemExit) as found:
        load("release").main()
    assert found.value.code == 2


@pytest.mark.packages
@pytest.mark.processes
@pytest.mark.timeout(1200)  # it installs two environments
def test_a_release_is_built_checked_and_tried() -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "build>=1.2,<2", "twine>=6,<7"]
    subprocess.run(command, check=True)
    done = subprocess.run(
        [sys.executable, "tools/release.py", "https://example.org/dora", "--allow-dirty"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "is in dist/, checked." in done.stdout
