"""A hook of hatchling: the addresses and the description that PyPI shows.

``DORA_REPOSITORY`` is the address of the repository, such as ``https://github.com/OWNER/dora``. With it,
the metadata has project URLs, and links and images of the README work outside of the repository. Without
it, as in ``pip install .``, the README stays as it is.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

REPOSITORY = "DORA_REPOSITORY"
_LINK = re.compile(r"(?P<before>!?\[[^\]]*\]\(|<img src=\")(?!https?:|#)(?P<path>[^)\"#]+)")


class CustomMetadataHook(MetadataHookInterface):
    """Sets ``readme`` and ``urls``."""

    def update(self, metadata: dict[str, Any]) -> None:
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        repository = os.environ.get(REPOSITORY, "").rstrip("/")
        metadata["urls"] = {}
        if repository:
            text = with_absolute_links(text, repository)
            metadata["urls"] = {
                "Source": repository,
                "Documentation": f"{repository}/blob/main/docs/index.md",
                "Changelog": f"{repository}/blob/main/CHANGELOG.md",
                "Issues": f"{repository}/issues",
            }
        metadata["readme"] = {"content-type": "text/markdown", "text": text}


def with_absolute_links(text: str, repository: str) -> str:
    """Return Markdown whose relative links and images point into a repository's branch ``main``."""

    def absolute(found: re.Match[str]) -> str:
        is_image = found["before"].startswith(("!", "<img"))
        return f"{found['before']}{repository}/{'raw' if is_image else 'blob'}/main/{found['path']}"

    return _LINK.sub(absolute, text)
