"""``dora demo``: it runs from a folder of its own, and says what is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dora.cli.commands import demo
from dora.cli.main import run_command_line

TIMEOUT = 120  # seconds, for something that hangs


@pytest.mark.slow
@pytest.mark.processes
def test_the_demo_copies_its_files_runs_them_and_keeps_what_was_changed(tmp_path: Path) -> None:
    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "dora", "demo", "mine"],
            cwd=tmp_path,
            env={**os.environ, "FRAMES": "6"},
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )

    first = run()
    assert first.returncode == 0, first.stderr
    assert first.stdout.endswith(
        "Open mine/out/detections.png; change the files in mine and run it again.\n"
        "To watch it run in the browser: dora demo mine --open\n"
    )
    assert (tmp_path / "mine/out/detections.png").stat().st_size > 10_000
    (tmp_path / "mine/camera.py").write_text("raise SystemExit('changed')")
    second = run()
    assert second.returncode == 1
    assert "changed" in second.stdout + second.stderr


def test_the_demo_leaves_other_folders_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("full").mkdir()
    Path("full/a.txt").write_text("")
    Path("file").write_text("")
    assert run_command_line(("demo", "full")) == 1
    assert "`full` has other files; name another folder: dora demo FOLDER" in capsys.readouterr().err
    assert run_command_line(("demo", "file")) == 1
    assert "cannot copy the example to file: File exists" in capsys.readouterr().err
    assert [path.name for path in Path("full").iterdir()] == ["a.txt"]


@pytest.mark.parametrize("folder", ["..", ".", "../..", "sub/../..", "/"])
def test_the_demo_takes_any_folder(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here = tmp_path / "above" / "here"
    (here / "sub").mkdir(parents=True)
    monkeypatch.chdir(here)
    assert run_command_line(("demo", folder)) == 1
    assert f"`{os.path.normpath(folder)}` has other files; name another folder" in capsys.readouterr().err


def test_the_demo_names_the_packages_it_needs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "_PACKAGES", ("cv2", "not_installed_here"))
    assert run_command_line(("demo",)) == 1
    assert "pip install 'opencv-python-headless<5' scikit-image" in capsys.readouterr().err
