"""``dora graph``: draw a dataflow as a web page or as a Mermaid flowchart."""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dora._paths import PACKAGE
from dora._shared_folders import open_file
from dora.cli.options import dataflow_argument
from dora.cli.tables import counted
from dora.daemon.load_dataflow import is_url, load_dataflow
from dora.errors import DoraError, cannot_write

if TYPE_CHECKING:
    from dora.dataflow.graph import Graph

_HINT = "Paste this at https://mermaid.live, or into a ```mermaid block of a page on GitHub."


@click.command()
@dataflow_argument
@click.option("--mermaid", is_flag=True, help="Print a flowchart for Mermaid instead of writing a page.")
@click.option("--open", "open_page", is_flag=True, help="Open the page in the browser.")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, allow_dash=True),
    metavar="FILE",
    help="Write the page, or the flowchart, to this file; - is the standard output.",
)
def graph(path: str, mermaid: bool, open_page: bool, output: str | None) -> None:
    """Draw a dataflow as a web page or as a Mermaid flowchart.

    FILE is a dataflow file or its URL [dataflow.yml]. The page is written to <name of the
    file>-graph.html in the current directory; it needs no network. Existing files are not overwritten,
    except the one that --output names.
    """
    from dora.dataflow.graph import graph_of

    if mermaid and open_page:
        raise click.UsageError("--mermaid writes no page that --open could show; use one of them")
    if output == "-" and open_page:
        raise click.UsageError("-o - writes no file that --open could show; use one of them")
    dataflow = load_dataflow(path)
    for warning in dataflow.warnings:
        click.echo(str(warning), err=True)
    drawn = graph_of(dataflow)
    if mermaid:
        from dora.dataflow.graph import flowchart

        text = f"{flowchart(drawn)}\n"
        if output in (None, "-"):
            click.echo(text, nl=False)
            if output is None:
                click.echo(_HINT, err=True)
        else:
            _write_over(output, text)
            click.echo(f"The flowchart is in {output}")
        return
    text = _page(drawn, _title(path))
    if output == "-":
        click.echo(text, nl=False)
        return
    page = _write(_stem(path), text) if output is None else _write_over(output, text)
    address = page.absolute().as_uri()
    click.echo(f"The graph is in {address}")
    if open_page:
        import webbrowser

        if not webbrowser.open(address):
            raise DoraError(f"no browser found to open the page; it is in {page}")


def _stem(path: str) -> str:
    return Path(path.partition("?")[0].rstrip("/")).stem or "dataflow"


def _title(path: str) -> str:
    """Return the name of the file with its folder, because many are called ``dataflow.yml``."""
    if is_url(path):
        return path
    return "/".join(Path(path).absolute().parts[-2:])


def _write(stem: str, text: str) -> Path:
    """Write a page to a path that does not exist yet; return the path."""
    for number in count():
        page = Path(f"{stem}-graph.{number}.html" if number else f"{stem}-graph.html")
        try:
            with page.open("x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            continue
        except OSError as error:
            raise cannot_write(page, error) from None
        return page
    raise AssertionError("numbers do not end")


def _write_over(file: str, text: str) -> Path:
    """Write into what the user names, which may be a device or a link; return it."""
    try:
        # Emptied instead of replaced: the rename of a new file would take the place of the device or link.
        opened = open_file(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        with open(opened, "w", encoding="utf-8") as page:
            page.write(text)
    except OSError as error:
        raise cannot_write(file, error) from None
    return Path(file)


def _page(graph: Graph, title: str) -> str:
    import re
    from html import escape

    import msgspec

    assets = os.path.join(PACKAGE, "assets")

    def asset(name: str) -> str:
        return Path(assets, name).read_text(encoding="utf-8")

    parts = {
        "TITLE": escape(title),
        "SUMMARY": _summary(graph),
        # Inside a script element, only its end tag has a meaning.
        "GRAPH": msgspec.json.encode(graph).decode().replace("<", "\\u003c"),
        "ENGINE": asset("elk.js"),
    }
    return re.sub("@(TITLE|SUMMARY|GRAPH|ENGINE)@", lambda found: parts[found[1]], asset("graph.html"))


def _summary(graph: Graph) -> str:
    """Count what the graph shows: ``3 nodes, 1 operator, 4 links``."""
    counts = {
        "node": sum(box.kind in ("node", "dynamic", "shell") for box in graph.boxes),
        "operator": sum(box.kind == "operator" for box in graph.boxes),
        "module": sum(group.kind == "module" for group in graph.groups),
        "link": sum(edge.kind != "timer" for edge in graph.edges),
    }
    return ", ".join(counted(number, word) for word, number in counts.items() if number) or "empty"
