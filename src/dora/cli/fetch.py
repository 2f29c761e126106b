"""Dataflow files from the web: ``dora run https://…/dataflow.yml``."""

from __future__ import annotations

from dora.errors import DataflowError

TIMEOUT = 30.0  # seconds without any byte
MAX_SIZE = 16 << 20  # bytes


def is_url(path: str) -> bool:
    """Tell whether a path names a dataflow file on the web."""
    return path.lower().startswith(("http://", "https://"))


def fetch(url: str) -> str:
    """Download the text of a dataflow file; raises `DataflowError` with the reason."""
    from http.client import HTTPException
    from urllib.error import HTTPError, URLError
    from urllib.request import urlopen

    try:
        with urlopen(url, timeout=TIMEOUT) as response:
            data: bytes = response.read(MAX_SIZE + 1)
    except HTTPError as error:
        raise DataflowError(f"cannot download {url}: the server says {error.code} {error.reason}") from None
    except URLError as error:
        reason = getattr(error.reason, "strerror", None) or error.reason
        raise DataflowError(f"cannot download {url}: {reason}") from None
    except (OSError, HTTPException, ValueError) as error:
        raise DataflowError(f"cannot download {url}: {error}") from None
    if len(data) > MAX_SIZE:
        raise DataflowError(f"{url} is larger than {MAX_SIZE >> 20} MiB: this is no dataflow file")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataflowError(f"{url} is not a text in UTF-8: this is no dataflow file") from None
