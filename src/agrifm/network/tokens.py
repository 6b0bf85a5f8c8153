"""Short-lived tokens for files of Planetary Computer."""

from __future__ import annotations

import re
import threading
import time
from datetime import datetime
from urllib.parse import urlsplit

from agrifm.errors import InputError

ENDPOINT = "https://planetarycomputer.microsoft.com/api/sas/v1/token/{account}/{container}"
STORED = re.compile(r"https://([a-z0-9]+)\.blob\.core\.windows\.net/([a-z0-9$-]+)/.*")  # account and container
SIGNED = "pc+"  # put before the scheme of files of Planetary Computer, which are read with a token
EARLY = 300  # seconds before the end of a token at which it is renewed


class Tokens:
    """Cache of tokens by storage container; safe to use from several threads."""

    def __init__(self, endpoint: str = ENDPOINT) -> None:
        self.endpoint = endpoint
        self._tokens: dict[str, tuple[float, str]] = {}
        self._lock = threading.Lock()

    def sign(self, href: str) -> str:
        """Add a token to an address, unless it has one.

        Raises:
            InputError: If the token cannot be fetched, or the address is no file of an Azure container.
        """
        parts = urlsplit(href)
        stored = STORED.fullmatch(href)
        if "sig=" in parts.query:
            return href
        if stored is None:
            raise InputError(
                href,
                found="no file of an Azure container",
                expected="https://ACCOUNT.blob.core.windows.net/CONTAINER/FILE",
                repair="search for the items again.",
            )
        address = self.endpoint.format(account=stored[1], container=stored[2])
        with self._lock:
            end, token = self._tokens.get(address, (0.0, ""))
            if time.time() > end - EARLY:
                end, token = _fetch(address)
                self._tokens[address] = (end, token)
        separator = "&" if parts.query else "?"
        return f"{href}{separator}{token}"


def _fetch(address: str) -> tuple[float, str]:
    """Fetch a token; returns its end in seconds since 1970 and the token."""
    # It imports requests and pystac-client, which takes long, and most files need no token.
    from agrifm.network.http import HttpReader

    answer = HttpReader(rate=1).document(address, "a token to read files of Planetary Computer")
    try:
        return datetime.fromisoformat(answer["msft:expiry"]).timestamp(), answer["token"]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            address,
            found=f"an answer without token: {str(answer)[:200]}",
            expected="'token' and 'msft:expiry'",
            repair="try again later, or use a copy of the files or another provider.",
        ) from error


def signed(href: str) -> str:
    """Return the address under which a file can be read now; files of Planetary Computer get a token.

    Raises:
        InputError: If the token cannot be fetched.
    """
    if not href.startswith(SIGNED):
        return href
    return _TOKENS.sign(href.removeprefix(SIGNED))


_TOKENS = Tokens()
