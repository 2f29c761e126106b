"""`make docs` builds a site without broken links that works without a network."""

from __future__ import annotations

import functools
import http.server
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin

import pytest

pytestmark = [pytest.mark.processes, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

# Attributes whose address a browser loads with the page, without a click.
LOADED = {"src", "srcset", "poster", "data"}
LOADED_LINKS = {"stylesheet", "icon", "preload", "prefetch", "preconnect", "manifest", "modulepreload"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("sphinx", reason="Sphinx is not installed (the extra `docs`)")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "tools/site/build.py", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


class Page(HTMLParser):
    """The anchors of a page, the links on it, and what a browser loads with it."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.anchors = {""}
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(file.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.anchors.add(values.get("id", ""))
        self.loaded += [values[name] for name in LOADED & values.keys()]
        if tag == "link" and LOADED_LINKS & set(values.get("rel", "").split()):
            self.loaded.append(values["href"])
        elif tag == "a" and "href" in values:
            self.links.append(values["href"])


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {file: Page(file) for file in site.rglob("*.html")}


def is_remote(address: str) -> bool:
    return re.match(r"([a-z][a-z0-9+.-]*:)?//", address) is not None


def test_no_page_loads_anything_from_another_host(site: Path, pages: dict[Path, Page]) -> None:
    assert {address for page in pages.values() for address in page.loaded if is_remote(address)} == set()
    for sheet in site.rglob("*.css"):
        addresses = re.findall(r"(?:url\(|@import)\s*[\"']?([^\"')\s]+)", sheet.read_text())
        assert [address for address in addresses if is_remote(address)] == [], sheet


def test_every_link_leads_to_a_file_and_an_anchor(site: Path, pages: dict[Path, Page]) -> None:
    broken = set()
    for file, page in pages.items():
        for link in page.links:
            address, _, anchor = urljoin(file.as_uri(), link).partition("#")
            if not address.startswith("file:"):
                continue
            target = Path(unquote(address.removeprefix("file://").partition("?")[0]))
            if not target.is_file() or (target in pages and unquote(anchor) not in pages[target].anchors):
                broken.add(f"{file.relative_to(site)}: {link}")
    assert broken == set()


def test_a_link_to_an_example_leads_to_its_page(site: Path, pages: dict[Path, Page]) -> None:
    assert "../examples/types.html" in pages[site / "how-to" / "types.html"].links


def test_the_reference_of_the_python_api_comes_from_the_docstrings(
    pages: dict[Path, Page], site: Path
) -> None:
    api = site / "reference" / "api"
    assert "dora.Node.send_output" in pages[api / "dora.html"].anchors
    assert "dora.builder.DataflowBuilder.validate" in pages[api / "dora.builder.html"].anchors
    assert "dora.testing.run_node" in pages[api / "dora.testing.html"].anchors


def test_a_broken_link_fails_the_build(tmp_path: Path) -> None:
    pytest.importorskip("sphinx", reason="Sphinx is not installed (the extra `docs`)")
    mistakes = "[broken](nowhere.md), [broken](start.md#nothing)"
    (tmp_path / "index.md").write_text(f"# Index\n\n{mistakes}\n\n```{{toctree}}\nstart\n```\n")
    (tmp_path / "start.md").write_text("# Start\n\n## Somewhere\n")
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--builder", "html"]
    command += ["--conf-dir", str(ROOT / "tools" / "site"), str(tmp_path), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    warnings = [line for line in done.stderr.splitlines() if "WARNING: " in line]
    assert len(warnings) == 2 and "nowhere" in warnings[0] and "nothing" in warnings[1], done.stderr


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Log nothing."""

    handler = functools.partial(Handler, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here (Debian: apt install chromium)")
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        yield browser.new_page()
        browser.close()


def test_the_search_leads_to_a_section_and_asks_no_other_host(chromium: Any, address: str) -> None:
    requested: list[str] = []
    chromium.on("request", lambda request: requested.append(request.url))
    chromium.goto(address)
    chromium.locator("input[name=q]").first.fill("what is watched by hot reload")
    chromium.keyboard.press("Enter")
    result = chromium.locator("#search-results li").first
    result.locator("p.context .highlighted", has_text="watched").first.wait_for()
    result.locator("a").click()
    chromium.wait_for_url(f"{address}how-to/hot-reload.html#what-is-watched")
    assert [url for url in requested if not url.startswith((address, "data:"))] == []


def test_the_search_works_on_a_site_that_is_opened_as_a_file(chromium: Any, site: Path) -> None:
    chromium.goto(f"{site.as_uri()}/search.html?q=raspberry")
    chromium.locator("#search-results p.context .highlighted", has_text="Raspberry").first.wait_for()


# What newcomers ask, and words of the answer that the first result has.
QUESTIONS = {
    "how do I make a queue bigger": "queue_size: 100",
    "why are messages dropped": "queue_size",
    "how do I use the webcam": "opencv-video-capture",
    "can I run it on a Jetson": "arm64",
    "raspberry pi camera": "picamera2",
    "how do I pass a numpy image": 'node.send_output("image", frame)',
    "how do I stop after 10 s": "--stop-after 10s",
    "where are the logs": "log_<node>.jsonl",
    "how do I set an environment variable": "env: {",
    "how do I debug a node with a breakpoint": "path: dynamic",
    "how do I use ROS 2 topics": "message_type: std_msgs/String",
    "how do I run on two computers": "dora daemon --machine-id",
    "is it safe on a shared network": "and encrypts",
    "how do I match two cameras by time": "timestamp",
    "which types can I send": "NumPy arrays",
    "how do I see the rate": "dora topic hz",
    "messages dropped": "queue_size",
    "stop after 10 seconds": "--stop-after 10s",
    "read mcap pandas": "--parquet",
    "fps": "dora topic hz",
    "raspberry pi": "arm64",
    "raspberry": "arm64",
    "jetson": "arm64",
    "temperature": "dora doctor",
    "throttling": "dora doctor",
    "power loss": "dora record",
    "hot reload": "With --hot-reload",
    "GPU": '.to("cuda")',
    "unit test": "MockNode",
    "CI": "actions/checkout",
    "install": "python3 -m venv",
    "latency": "dora top",
    "measure latency": "dora top --latency",
    "boot": "enable-linger",
    "autostart": "enable-linger",
}


def test_the_first_result_answers_what_newcomers_ask(chromium: Any, site: Path) -> None:
    chromium.goto(f"{site.as_uri()}/search.html")
    chromium.wait_for_function("Search.sections.length > 0")
    missed = {}
    for question, answer in QUESTIONS.items():
        first = chromium.evaluate("question => Search.rank(question)[0]", question)
        if first is None or answer not in first["text"]:
            missed[question] = first and f"{first['name']}#{first['anchor']}"
    assert missed == {}


def test_a_search_without_a_result_says_so(chromium: Any, site: Path) -> None:
    chromium.goto(f"{site.as_uri()}/search.html?q=xylophone")
    chromium.get_by_text("Nothing found.").wait_for()
