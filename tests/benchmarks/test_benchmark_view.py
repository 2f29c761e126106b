"""The benchmark of `dora view` on a small file."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks import view


@pytest.mark.slow
@pytest.mark.processes
def test_it_measures_a_small_recording(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(view, "JUMPS", 3)
    view.main(["--gigabytes", "0.003", "--folder", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "0.00 GB, 0 s of recording" in printed
    assert "of 3\n" in printed
    assert "memory of both processes" in printed
    assert list(tmp_path.iterdir()) == []
