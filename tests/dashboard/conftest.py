"""A browser for all tests of a module."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from browsing import CHROMIUM, WIDE, Opened


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as engine:
        chromium = engine.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Any]:
    """Return a function that opens an address and returns the page once the graph is laid out."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    opened: list[Opened] = []

    def open_page(
        address: str, size: dict[str, int] = WIDE, *, ready: str = "body.ready", **options: Any
    ) -> Any:
        opened.append(Opened(browser, size, **options))
        page = opened[-1].page
        page.goto(address)
        try:
            page.wait_for_selector(ready)
        except sync_api.Error:
            raise AssertionError(f"not ready: {page.inner_text('body')}\n{opened[-1].errors}") from None
        return page

    yield open_page
    for one in opened:
        one.context.close()
        assert one.errors == []
