"""JSON over the network, with patience: asked again after passing failures, no faster than a server allows."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

from pystac import STACError, STACTypeError
from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO
from urllib3 import Retry

from agrifm.errors import InputError

ATTEMPTS = 5
TIMEOUT = 60.0
LONGEST = 120.0  # seconds to wait at most, whatever a server asks for


class Patience(Retry):
    """Asks again after passing failures and waits as long as the server asks for, within limits."""

    def get_retry_after(self, response: Any) -> float | None:
        """Seconds that the server asks for."""
        after = super().get_retry_after(response)
        return None if after is None else min(after, LONGEST)


RETRY = Patience(ATTEMPTS, backoff_factor=0.5, status_forcelist=(429, 500, 502, 503, 504), allowed_methods=None)


class Reader(StacApiIO):
    """Reads text at no more than ``rate`` requests per second."""

    def __init__(self, rate: float) -> None:
        super().__init__(timeout=TIMEOUT, max_retries=RETRY)
        self._gap, self._next, self._lock = 1 / rate, 0.0, threading.Lock()

    def request(
        self,
        href: str,
        method: str | None = None,
        headers: dict[str, str] | None = None,
        parameters: dict[str, Any] | None = None,
    ) -> str:
        """One request, asked again if the connection is cut in the middle of the answer."""
        for left in reversed(range(ATTEMPTS)):
            self._pace()
            try:
                return super().request(href, method, headers, parameters)
            except APIError as error:
                final = getattr(error, "status_code", None) is not None or "Max retries exceeded" in str(error)
                if final or not left:
                    raise
        raise AssertionError

    def document(self, address: str, what: str) -> dict[str, Any]:
        """A JSON object at an address or path.

        Raises:
            InputError: there is none.
        """
        with asking(address, what):
            found = json.loads(self.read_text(address))
            if not isinstance(found, Mapping):
                raise ValueError(f"JSON that is no object: {str(found)[:80]}")
            return dict(found)

    def _pace(self) -> None:
        with self._lock:
            time.sleep(max(0.0, self._next - time.monotonic()))
            self._next = time.monotonic() + self._gap


@contextmanager
def asking(address: str, what: str) -> Generator[None]:
    """Turn failures of network and files into the one kind of error."""
    try:
        yield
    except InputError:
        raise
    except (APIError, STACError, STACTypeError, OSError, ValueError) as error:
        status = getattr(error, "status_code", None)
        tried = " after several attempts" if isinstance(error, APIError) and status is None else ""
        told = " ".join(str(error).split())[:300] or type(error).__name__
        raise InputError(
            address,
            found=f"no usable answer{tried}: {f'status {status}, ' if status else ''}{told}",
            expected=what,
            repair="check the address and the network and try again; an item list saved earlier works without.",
        ) from error
