"""Addresses of repositories and downloads, as they are shown and kept."""

from __future__ import annotations

import re

# The user in an address. A name without a password is a secret only with HTTP, where it may be a token.
_OF_USER = re.compile(r"(?i)(\bhttps?://)[^\s/?#]*@|(://[^\s/?#:@]*):[^\s/?#]*@")


def without_user(text: str) -> str:
    """Return a text without the passwords and tokens of the addresses in it, to show or to keep it.

    >>> without_user("https://me:TOKEN@example.org/a.git, ssh://git:secret@example.org, git@example.org:a")
    'https://example.org/a.git, ssh://git@example.org, git@example.org:a'
    """
    return _OF_USER.sub(lambda found: found[1] or f"{found[2]}@", text)
