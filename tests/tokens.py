"""The token in tests that speak to a server without the product's client."""

from __future__ import annotations

from dora.transport.tokens import find_token

TOKEN = "a-token-of-the-tests-0123456789abcdef"


def bearer(token: str = "") -> dict[str, str]:
    """Return the header that shows a token, by default the one of the test's user."""
    if not token:
        found = find_token()
        assert found is not None, "there is no token yet"
        token = found.value
    return {"Authorization": f"Bearer {token}"}
