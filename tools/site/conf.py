"""Sphinx settings of the documentation site; `tools/site/build.py` prepares the pages and calls Sphinx."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

import dora

project = "dora"
author = "the dora contributors"
project_copyright = "the dora contributors"
version = release = dora.__version__
root_doc = "index"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]

myst_heading_anchors = 4  # headings get the anchors that GitHub gives them
# Single backticks in docstrings are references to the Python API; double ones are code.
default_role = "any"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_class_signature = "mixed"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 90

html_theme = "furo"
html_title = "dora"
html_static_path = ["static"]  # its searchtools.js takes the place of that of Sphinx
html_show_sourcelink = False
html_show_sphinx = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}
pygments_style = "friendly"
pygments_dark_style = "monokai"

NO_TEXT = (nodes.section, nodes.raw, addnodes.desc)  # comments are raw HTML
SECTIONS: dict[str, list[tuple[str, str, str]]] = {}


def setup(app: Sphinx) -> None:
    app.connect("doctree-resolved", collect_sections)
    app.connect("build-finished", write_search_index)


def collect_sections(_app: Sphinx, document: nodes.document, page: str) -> None:
    SECTIONS[page] = list(sections(document))


def sections(document: nodes.document) -> Iterator[tuple[str, str, str]]:
    """Give anchor, heading and text of each section (without its subsections) and definition."""
    for part in document.findall(lambda node: isinstance(node, nodes.section | addnodes.desc)):
        if isinstance(part, nodes.section):
            title = part[0]
            # The title of a page needs no anchor.
            anchor = "" if isinstance(part.parent, nodes.document) else part["ids"][0]
            yield anchor, title.astext(), text_of(part.children[1:])
        elif part[0].get("ids"):
            signature = part[0]
            yield signature["ids"][0], signature["ids"][0], text_of([*signature, *part.children[1:]])


def text_of(parts: list[nodes.Node]) -> str:
    texts = []
    for part in parts:
        inner = part.children if isinstance(part, addnodes.desc_content) else [part]
        texts += [block.astext() for block in inner if not isinstance(block, NO_TEXT)]
    return " ".join(" ".join(texts).split())


def write_search_index(app: Sphinx, error: Exception | None) -> None:
    """Write what the search of the site reads, in place of the index of Sphinx."""
    if error or app.builder.name != "html":
        return
    pages = sorted(SECTIONS)
    titles = [[page, app.env.titles[page].astext()] for page in pages]
    found = [[number, *section] for number, page in enumerate(pages) for section in SECTIONS[page]]
    index = json.dumps({"pages": titles, "sections": found}, ensure_ascii=False)
    (Path(app.outdir) / "searchindex.js").write_text(f"Search.setIndex({index});\n")
