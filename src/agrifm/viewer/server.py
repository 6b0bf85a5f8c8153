"""The server of the viewer: this machine only, a secret in every address, and nothing but what was opened at its start.

No request names a file: tiles and values are asked for by numbers, and the files of the page are held in memory.
Labels, what is trained from them, and the answers of a sample are all that is written, to places that were named at the
start.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable, Collection
from html import escape
from threading import Thread

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agrifm.errors import InputError, reason
from agrifm.viewer.answers.chips import ChipAnswers
from agrifm.viewer.answers.interpretation import InterpretationAnswers
from agrifm.viewer.answers.labels import LabelAnswers
from agrifm.viewer.answers.maps import MapAnswers
from agrifm.viewer.answers.replies import HANDLERS, PageFiles, Threads, error
from agrifm.viewer.answers.runs import RunAnswers
from agrifm.viewer.answers.training import TrainingAnswers
from agrifm.viewer.chips import ChipSet
from agrifm.viewer.interpretation.interpreted import Interpretation
from agrifm.viewer.opening import Page
from agrifm.viewer.runs import Run
from agrifm.viewer.view import Showing, View

ADDRESS = "127.0.0.1"
HOSTS = (ADDRESS, "localhost")  # any port, so that a forwarded one works
PATIENCE = 2  # seconds for which requests may finish after Ctrl-C
# Scripts, styles and workers come from this server alone; pictures may also be drawn by the page itself.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "worker-src 'self' blob:; base-uri 'none'; form-action 'none'"
)
NOBODY = "'none'"
NOTEBOOKS = "http://127.0.0.1:* http://localhost:*"
SAFE = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class Guard:
    """Lets requests through that know the secret, come by a name of this machine, and read or come from the page.

    The name is checked because a page of another site could have its own name resolved to this machine.

    Args:
        app: Application behind it.
        token: Secret that every path begins with.
        writes: Paths that may be written with PUT by the page itself.
        framed: Let pages of this machine, such as notebooks, show the page in a frame.
    """

    def __init__(self, app: ASGIApp, token: str, writes: Collection[str] = (), *, framed: bool = False) -> None:
        self.app = app
        self.token = token
        self.writes = frozenset(writes)
        policy = f"{POLICY}; frame-ancestors {NOTEBOOKS if framed else NOBODY}"
        self.headers = {"Content-Security-Policy": policy, **SAFE}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, with headers that restrict what the page may do."""
        if scope["type"] != "http":  # the end and the beginning of the server
            await self.app(scope, receive, send)
            return

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self.headers.items():
                    headers[name] = value
            await send(message)

        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, send_safely)
            return
        await self.app(scope, receive, send_safely)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if host.rsplit(":", 1)[0] not in HOSTS:
            return error(403, "This server answers to 127.0.0.1 and localhost only.")
        _, given, *_ = (*scope["path"].split("/", 2), "")
        if not secrets.compare_digest(given.encode("utf-8", "surrogatepass"), self.token.encode()):
            return error(403, "The address lacks the secret; open the one that 'agrifm view' printed.")
        if scope["method"] == "GET":
            return None
        if scope["method"] != "PUT" or scope["path"] not in self.writes:
            return error(405, "This address can only be read from.")
        # Browsers state the origin of every PUT; a page of another site cannot change it.
        if headers.get("origin") != f"http://{host}" or headers.get("sec-fetch-site", "same-origin") != "same-origin":
            return error(403, "Only the page of this server may write.")
        return None


Routes = dict[str, Callable]


def _answers(shown: Page, threads: Threads) -> tuple[str, Routes, Routes]:
    """Return the file of the page, what is answered at each address, and what is written."""
    if isinstance(shown, Interpretation):
        interpretation = InterpretationAnswers(shown, threads)
        return "interpret.html", interpretation.routes, interpretation.writing_routes
    if isinstance(shown, ChipSet):
        return "chips.html", ChipAnswers(shown, threads).routes, {}
    if isinstance(shown, Run):
        routes = RunAnswers(shown, threads).routes
        if shown.chips is not None:
            routes |= ChipAnswers(shown.chips, threads).routes
        return "run.html", routes, {}
    showing = Showing(shown)
    routes = MapAnswers(showing, threads).routes
    writing: Routes = {}
    if shown.labels is not None:
        labels = LabelAnswers(shown.labels, showing, threads)
        routes |= labels.routes
        writing |= labels.writing_routes
    if shown.training is not None:
        training = TrainingAnswers(shown.training, showing, threads)
        routes |= training.routes
        writing |= training.writing_routes
    return "index.html", routes, writing


def _end(shown: Page) -> None:
    """End what the page has started."""
    if isinstance(shown, View) and shown.training is not None:
        shown.training.cancel()


def application(view: Page, token: str, *, framed: bool = False) -> ASGIApp:
    """Return the server of a view as an ASGI application.

    Args:
        view: What is shown.
        token: Secret that every path begins with.
        framed: Let notebooks on this machine show the page in a frame.
    """
    start, reading, writing = _answers(view, Threads())
    page = PageFiles(start)
    routes = {"/": page.page, **reading, "/js/{name}": page.script, "/{name}": page.page}
    listed = [Route(f"/{token}{path}", endpoint, methods=["PUT"]) for path, endpoint in writing.items()]
    listed += [Route(f"/{token}{path}", endpoint, methods=["GET"]) for path, endpoint in routes.items()]
    app = Starlette(routes=listed, exception_handlers=HANDLERS)
    app.router.redirect_slashes = False
    return Guard(app, token, [f"/{token}{path}" for path in writing], framed=framed)


def serve(view: Page, port: int, opened: Callable[[str], None]) -> None:
    """Serve a view until Ctrl-C or SIGTERM.

    Args:
        view: What is shown.
        port: Port of this machine; 0 takes a free one.
        opened: Called with the address once the server listens.

    Raises:
        InputError: If the port is taken.
    """
    token = secrets.token_urlsafe(24)
    with _listening(port) as listening:
        opened(_address(listening, token))
        try:
            _server(application(view, token)).run(sockets=[listening])
        finally:
            _end(view)


class LiveView:
    """A page that is served in the background, as :func:`agrifm.view` returns it; notebooks show it in a frame.

    It ends with :meth:`close`, at the end of a ``with`` block, or with the process.

    Args:
        shown: What is shown.
        port: Port of this machine; 0 takes a free one.
        height: Pixels of the frame in a notebook.

    Raises:
        InputError: If the port is taken.
    """

    def __init__(self, shown: Page, port: int = 0, height: int = 640) -> None:
        token = secrets.token_urlsafe(24)
        self.shown = shown
        self.height = height
        self._socket = _listening(port)
        self.address = _address(self._socket, token)
        self._server = _server(application(shown, token, framed=True))
        # A thread that does not keep the process alive.
        self._thread = Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the server; the page stays as it is, but cannot ask for anything further."""
        self._server.should_exit = True
        self._thread.join(2 * PATIENCE)
        self._socket.close()
        _end(self.shown)

    def __enter__(self) -> LiveView:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{self.shown}\n{self.address}"

    def _repr_html_(self) -> str:
        """Return a frame for notebooks, and a link for those whose frames stay empty, as on other machines."""
        address = escape(self.address, quote=True)
        frame = f'<iframe src="{address}" width="100%" height="{self.height}" style="border: 0" title="AgriFM viewer">'
        return f'{frame}</iframe><p><a href="{address}" target="_blank" rel="noopener">Open in a window</a></p>'


def _listening(port: int) -> socket.socket:
    """Return a socket that listens to this machine.

    Raises:
        InputError: If the port is taken.
    """
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((ADDRESS, port))
    except OSError as error:
        listening.close()
        raise InputError(
            f"--port {port}",
            found=f"a port that cannot be opened: {reason(error)}",
            expected="a free port of this machine",
            repair="leave --port out, or name another one.",
        ) from error
    listening.listen()
    return listening


def _address(listening: socket.socket, token: str) -> str:
    return f"http://{ADDRESS}:{listening.getsockname()[1]}/{token}/"


def _server(app: ASGIApp) -> uvicorn.Server:
    config = uvicorn.Config(
        app,
        log_level="critical",  # the page shows errors
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=PATIENCE,
    )
    return uvicorn.Server(config)
