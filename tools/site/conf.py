"""Sphinx settings of the documentation site; `tools/site/build.py` prepares the pages and calls Sphinx."""

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
html_static_path = []
html_show_sourcelink = False
html_show_sphinx = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}
pygments_style = "friendly"
pygments_dark_style = "monokai"
