"""The page of a run looks back into its black box, saves it, and goes back to the present."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import waiting
from browsing import NEEDS_CHROMIUM, wait_until
from driven import drive

from dora.cluster.dashboard import histories, pages
from dora.cluster.dashboard.local import LocalRun, listen
from dora.cluster.dashboard.local_server import make_app
from dora.cluster.http.server import make_server
from dora.errors import DoraError

pytestmark = [pytest.mark.processes, NEEDS_CHROMIUM]


class PageOfRun:
    """The page of a run that has a black box, in this process."""

    def __init__(self, folder: Path) -> None:
        run = LocalRun("0d1c", "robot", None, str(folder), ["camera", "eyes"], time.time(), "ticket")
        app, self.dashboard = make_app(run, lambda: None)
        self.server = make_server(app, 100)
        listener = listen()
        self.address = f"http://127.0.0.1:{listener.getsockname()[1]}/open?ticket=ticket"
        self.thread = threading.Thread(target=lambda: asyncio.run(self._serve(listener)))
        self.thread.start()
        waiting.wait_until(lambda: self.server.started, "the server")

    async def _serve(self, listener: Any) -> None:
        await self.server._serve([listener])  # `serve` takes over signals, in the main thread only
        await self.dashboard.close()

    def end(self) -> None:
        self.server.should_exit = True
        self.thread.join()


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, str]]:
    """Return paths and notes with which the black box was saved."""
    content = drive(tmp_path / "content.mcap")
    found: list[tuple[str, str]] = []

    def save(socket: str, path: str = "", note: str = "") -> str:
        assert "0d1c" in socket
        found.append((path, note))
        if note == "no room":
            raise DoraError("there is no room left where the file would be")
        if path:
            shutil.copy(content, path)
        return path or str(tmp_path / "saved.mcap")

    for module in (histories, pages):
        monkeypatch.setattr(module, "save_black_box", save)
    monkeypatch.setattr(pages, "_keeps_black_box", lambda _: True)
    return found


@pytest.fixture
def page_of_run(saved: Any, tmp_path: Path) -> Iterator[PageOfRun]:  # noqa: ARG001 - before the server
    page = PageOfRun(tmp_path)
    yield page
    page.end()


@pytest.mark.slow
def test_a_click_to_the_left_shows_the_black_box(
    page_of_run: PageOfRun, saved: Any, visit: Callable[..., Any]
) -> None:
    page = visit(page_of_run.address, ready=".timeline")
    assert page.locator(".axis").get_attribute("aria-valuetext") == "live"
    axis = page.locator(".axis").bounding_box()
    page.mouse.click(axis["x"] + axis["width"] * 28 / 30, axis["y"] + axis["height"] / 4)  # two seconds ago
    page.locator(".panel[data-topic='camera/image'][data-number='80']").wait_for()
    page.locator(".box[data-tone=bad]", has_text="eyes").wait_for()
    assert page.locator(".mark").count() == 2
    page.locator(".box", has_text="eyes").first.click()
    page.locator(".details h2", has_text="eyes").wait_for()
    assert page.get_by_role("button", name="Debug from here").count() == 0  # its file will not stay
    (path, note), *more = saved
    assert os.path.exists(path)
    assert (note, more) == ("", [])
    page.get_by_role("button", name="Live").click()
    page.get_by_role("button", name="Look back").wait_for()
    assert page.locator(".panel").count() == 0


@pytest.mark.slow
def test_the_last_seconds_are_saved_with_a_note(
    page_of_run: PageOfRun, saved: Any, visit: Callable[..., Any]
) -> None:
    page = visit(page_of_run.address, ready=".timeline")
    page.get_by_label("Note").fill("it turned left")
    page.get_by_role("button", name="Save", exact=True).click()
    page.locator(".toast", has_text="saved.mcap").wait_for()
    assert saved == [("", "it turned left")]
    page.get_by_label("Note").fill("no room")
    page.get_by_role("button", name="Save", exact=True).click()
    page.locator(".toast.bad", has_text=re.compile("no room left")).wait_for()


@pytest.mark.slow
def test_the_files_of_a_look_back_go_with_the_server(
    page_of_run: PageOfRun, saved: Any, visit: Callable[..., Any]
) -> None:
    page = visit(page_of_run.address, ready=".timeline")
    page.get_by_role("button", name="Look back").click()
    page.get_by_role("button", name="Live").wait_for()
    wait_until(lambda: len(saved) == 1, page, "file")
    path = saved[0][0]
    assert os.path.exists(path)
    page_of_run.end()
    assert not os.path.exists(path)
