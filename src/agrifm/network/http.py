"""JSON over HTTP or from disk, within limits of size, time, depth and place.

Requests are retried after temporary failures, no faster than the server allows.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, TypeVar

from pystac import Link
from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO
from requests import PreparedRequest, Request, Response
from requests.exceptions import ChunkedEncodingError, ConnectionError, InvalidSchema, RequestException, Timeout

from agrifm.addresses import is_address, normalized
from agrifm.errors import InputError, printable
from agrifm.network.json_text import json_object, read_file, text_of
from agrifm.network.retry import Attempt, TemporaryFailure, retry

WAITS = (0.5, 1.0, 2.0, 4.0)  # seconds before a request is sent again
LONGEST_WAIT = 120.0  # seconds to wait at most, whatever a server asks for
PATIENCE = 30.0  # seconds that all attempts of one request may take together, without the pauses between them
TEMPORARY = (429, 500, 502, 503, 504)  # statuses after which a request is sent again
GRACE = 1.0  # seconds after which a request that exceeds its limit is abandoned
REDIRECTS = 5
MOST_ANSWER = 64 * 2**20  # bytes of one answer

Result = TypeVar("Result")


class HttpReader(StacApiIO):
    """Reads text at no more than ``rate`` requests per second.

    Args:
        rate: Requests per second.
        local: Whether documents may be local files; paths that a server names never are.
    """

    def __init__(self, rate: float, *, local: bool = False) -> None:
        super().__init__(timeout=PATIENCE, max_retries=None)
        self.session.max_redirects = REDIRECTS
        self.local = local
        self._interval = 1 / rate  # seconds between two requests
        self._next = 0.0  # time of the monotonic clock before which no request is sent
        self._lock = threading.Lock()

    def read_text(self, source: Any, *args: Any, **kwargs: Any) -> str:
        """Text at an address, a link of a STAC document, or a path if local files are allowed."""
        place = source.href if isinstance(source, Link) else str(source)
        if is_address(place):
            return super().read_text(source, *args, **kwargs)
        if not self.local:
            raise InputError(
                place,
                found="a local path in an answer of a server",
                expected="an address",
                repair="ask the operator of the catalog to correct the link.",
            )
        return text_of(read_file(Path(place)))

    def json_loads(self, txt: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """A JSON object."""
        return json_object(txt)

    def request(
        self,
        href: str,
        method: str | None = None,
        headers: dict[str, str] | None = None,
        parameters: dict[str, Any] | None = None,
    ) -> str:
        """Send one request, and retry after temporary failures until ``PATIENCE`` is used up."""
        address = normalized(href, href, ("http", "https"))
        method = (method or "GET").upper()
        if method == "POST":
            unprepared = Request(method, address, headers=headers, json=parameters)
        else:
            unprepared = Request(method, address, headers=headers, params=parameters or {})
        request = self.session.prepare_request(unprepared)

        def send(attempt: Attempt) -> str:
            self._pace()
            return text_of(within(lambda: self._answer(request, attempt.seconds), attempt.seconds))

        return retry(send, WAITS, PATIENCE)

    def _answer(self, request: PreparedRequest, seconds: float) -> bytes:
        """The bytes of one answer."""
        end = time.monotonic() + seconds
        settings = self.session.merge_environment_settings(str(request.url), {}, True, True, None)
        try:
            with self.session.send(request, timeout=seconds, **settings) as response:
                if not 200 <= response.status_code < 300:
                    raise _failure(response)
                content = bytearray()
                for part in response.iter_content(2**16):
                    content += part
                    if len(content) > MOST_ANSWER or time.monotonic() > end:
                        raise APIError(f"an answer of more than {MOST_ANSWER:,} bytes or {seconds:.0f} seconds")
                return bytes(content)
        except InvalidSchema as error:
            raise APIError(f"a redirect to a place that is not opened: {error}") from error
        except (ConnectionError, Timeout, ChunkedEncodingError) as error:
            raise _temporary(str(error)) from error
        except RequestException as error:
            raise APIError(str(error)) from error

    def document(self, address: str, what: str) -> dict[str, Any]:
        """A JSON object at an address or path.

        Raises:
            InputError: If there is none.
        """
        with asking(address, what):
            return json_object(self.read_text(address))

    def _pace(self) -> None:
        with self._lock:
            time.sleep(max(0.0, self._next - time.monotonic()))
            self._next = time.monotonic() + self._interval


def _failure(response: Response) -> Exception:
    """Exception for an answer with an error status, with the beginning of its text."""
    text = response.raw.read(1000, decode_content=True).decode("utf-8", "replace")
    message = f"status {response.status_code}, {printable(text)}"
    if response.status_code not in TEMPORARY:
        return APIError(message)
    return _temporary(message, _retry_after(response.headers.get("Retry-After")))


def _temporary(message: str, wait: float | None = None) -> TemporaryFailure:
    return TemporaryFailure(APIError(f"after several attempts: {message}"), wait)


def _retry_after(text: str | None) -> float | None:
    """Seconds to wait from a Retry-After header, which is a number or a date."""
    try:
        seconds = float(text or "")
    except ValueError:
        try:
            seconds = parsedate_to_datetime(text or "").timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    if math.isnan(seconds):
        return None
    return min(max(seconds, 0.0), LONGEST_WAIT)


def within(work: Callable[[], Result], seconds: float) -> Result:
    """Return the result of a function if it takes no longer than a time limit.

    The timeout of a socket does not limit the whole, because it starts again with each byte. A late thread is
    abandoned; it ends with its connection or with the process.

    Raises:
        APIError: If it takes longer.
    """
    results: list[Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds + GRACE)
    if errors:
        raise errors[0]
    if results:
        return results[0]
    raise APIError(f"no complete answer within {seconds:.0f} seconds")


@contextmanager
def asking(address: str, what: str) -> Generator[None]:
    """Turn failures of network, files and libraries into one kind of error."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            address,
            found=f"no usable answer: {printable(' '.join(str(error).split()))[:300] or type(error).__name__}",
            expected=what,
            repair="check the address and the network and try again; an item list saved earlier works without.",
        ) from error
