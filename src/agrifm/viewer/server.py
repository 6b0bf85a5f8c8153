"""The server of the viewer: this machine only, a secret in every address, and nothing but what was opened at its start.

No request names a file: tiles and values are asked for by numbers, and the files of the page are held in memory.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable
from importlib.resources import files
from typing import Any, TypeVar

import uvicorn
from anyio import CapacityLimiter, to_thread
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agrifm.errors import InputError, reason
from agrifm.viewer.images import COMPOSITES
from agrifm.viewer.tiles import TileIndex, class_tile, png, surface_tile
from agrifm.viewer.view import View

ADDRESS = "127.0.0.1"
HOSTS = (ADDRESS, "localhost")  # any port, so that a forwarded one works
READERS = 4  # requests that read at the same time
PATIENCE = 2  # seconds for which requests may finish after Ctrl-C
# Scripts, styles and workers come from this server alone; pictures may also be drawn by the page itself.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "worker-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SAFE = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
KEPT = {"Cache-Control": "private, max-age=86400"}  # by the browser; the address changes with every start
NOT_KEPT = {"Cache-Control": "no-store"}
STATIC = {
    "": ("index.html", "text/html; charset=utf-8"),
    "viewer.css": ("viewer.css", "text/css; charset=utf-8"),
    "viewer.js": ("viewer.js", "text/javascript; charset=utf-8"),
    "icon.svg": ("icon.svg", "image/svg+xml"),
    "maplibre-gl.css": ("vendor/maplibre-gl.css", "text/css; charset=utf-8"),
    "maplibre-gl.mjs": ("vendor/maplibre-gl.mjs", "text/javascript; charset=utf-8"),
    "maplibre-gl-worker.mjs": ("vendor/maplibre-gl-worker.mjs", "text/javascript; charset=utf-8"),
}

Part = TypeVar("Part")


class Guard:
    """Lets requests through that know the secret, come by a name of this machine and only read.

    The name is checked because a page of another site could have its own name resolved to this machine.

    Args:
        app: Application behind it.
        token: Secret that every path begins with.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app = app
        self.token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, with headers that restrict what the page may do."""
        if scope["type"] != "http":  # the end and the beginning of the server
            await self.app(scope, receive, send)
            return

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SAFE.items():
                    headers[name] = value
            await send(message)

        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, send_safely)
            return
        await self.app(scope, receive, send_safely)

    def _refusal(self, scope: Scope) -> Response | None:
        name = Headers(scope=scope).get("host", "").rsplit(":", 1)[0]
        if name not in HOSTS:
            return _error(403, "This server answers to 127.0.0.1 and localhost only.")
        _, given, *_ = (*scope["path"].split("/", 2), "")
        if not secrets.compare_digest(given.encode("utf-8", "surrogatepass"), self.token.encode()):
            return _error(403, "The address lacks the secret; open the one that 'agrifm view' printed.")
        if scope["method"] != "GET":
            return _error(405, "This server can only be read from.")
        return None


class Answers:
    """Answers about one view. Reading happens in a few threads, so that the page stays quick.

    Args:
        view: What is shown.
    """

    def __init__(self, view: View) -> None:
        self.view = view
        self.readers = CapacityLimiter(READERS)
        folder = files("agrifm.viewer") / "static"
        self.static = {name: (folder.joinpath(path).read_bytes(), kind) for name, (path, kind) in STATIC.items()}

    async def page(self, request: Request) -> Response:
        """A file of the page."""
        name = request.path_params.get("name", "")
        if name not in self.static:
            raise HTTPException(404, "There is no such file.")
        content, kind = self.static[name]
        return Response(content, media_type=kind, headers=NOT_KEPT)

    async def view_json(self, request: Request) -> Response:
        """What is shown."""
        return await self._json(request, self.view.describe)

    async def areas(self, request: Request) -> Response:
        """Hectares of the classes of a map by value."""
        shown = self.view.maps[request.path_params["map"]]
        return await self._json(request, lambda: shown.hectares)

    async def map_tile(self, request: Request) -> Response:
        """A tile of a map: layer 0 are its classes, the others its surfaces."""
        tile = _tile(request)
        number, layer = request.path_params["map"], request.path_params["layer"]
        shown = self.view.maps[number]
        if layer == 0:
            hidden = _hidden(request)
            return await self._png(request, (number, tile, hidden), lambda: class_tile(shown, tile, hidden))
        surface = shown.surfaces[layer - 1]
        return await self._png(request, (number, layer, tile), lambda: surface_tile(surface, tile))

    async def image_tile(self, request: Request) -> Response:
        """A tile of a date of the scene."""
        tile = _tile(request)
        images = _existing(self.view.images)
        sensor, step = request.path_params["sensor"], request.path_params["step"]
        images.layer(sensor, step)
        name = list(COMPOSITES)[request.path_params["composite"]]
        veil = request.query_params.get("veil") == "1"

        def draw() -> bytes:
            return png(images.composite(sensor, step, name, tile.box, veil=veil))

        return await self._png(request, ("images", sensor, step, name, veil, tile), draw)

    async def clear(self, request: Request) -> Response:
        """The share of clear pixels of a date."""
        images = _existing(self.view.images)
        sensor, step = request.path_params["sensor"], request.path_params["step"]
        images.layer(sensor, step)
        return await self._json(request, lambda: {"clear": images.clear_share(sensor, step)})

    async def pixel(self, request: Request) -> Response:
        """What the maps hold at a place."""
        longitude, latitude = _place(request)
        return await self._json(request, lambda: [shown.at(longitude, latitude) for shown in self.view.maps])

    async def series(self, request: Request) -> Response:
        """The series of all sensors at a place."""
        images = _existing(self.view.images)
        longitude, latitude = _place(request)
        return await self._json(request, lambda: images.series(longitude, latitude))

    async def parcels(self, request: Request) -> Response:
        """The parcels as GeoJSON."""
        parcels = _existing(self.view.parcels)
        content = await to_thread.run_sync(lambda: parcels.geojson)
        return Response(content, media_type="application/geo+json", headers=NOT_KEPT)

    async def _json(self, request: Request, compute: Callable[[], Any]) -> Response:
        return await self._in_thread(request, lambda: JSONResponse(compute(), headers=NOT_KEPT))

    async def _png(self, request: Request, key: tuple, draw: Callable[[], bytes]) -> Response:
        def respond() -> Response:
            return Response(self.view.cache.get(key, draw), media_type="image/png", headers=KEPT)

        return await self._in_thread(request, respond)

    async def _in_thread(self, request: Request, respond: Callable[[], Response]) -> Response:
        async with self.readers:
            # A date slider that moves on leaves requests behind; those are not worth reading for.
            if await request.is_disconnected():
                return Response(status_code=204)
            return await to_thread.run_sync(respond)


def application(view: View, token: str) -> ASGIApp:
    """Return the server of a view as an ASGI application.

    Args:
        view: What is shown.
        token: Secret that every path begins with.
    """
    answers = Answers(view)
    tile = "{z:int}/{x:int}/{y:int}.png"
    routes = {
        "/": answers.page,
        "/view.json": answers.view_json,
        "/areas/{map:int}.json": answers.areas,
        f"/map/{{map:int}}/{{layer:int}}/{tile}": answers.map_tile,
        f"/image/{{sensor:int}}/{{step:int}}/{{composite:int}}/{tile}": answers.image_tile,
        "/clear/{sensor:int}/{step:int}.json": answers.clear,
        "/pixel.json": answers.pixel,
        "/series.json": answers.series,
        "/parcels.json": answers.parcels,
        "/{name}": answers.page,
    }
    listed = [Route(f"/{token}{path}", endpoint, methods=["GET"]) for path, endpoint in routes.items()]
    handlers = {
        InputError: _refused,
        IndexError: _missing,
        HTTPException: _failed,
        Exception: _broken,
    }
    app = Starlette(routes=listed, exception_handlers=handlers)  # ty: ignore[invalid-argument-type]
    app.router.redirect_slashes = False
    return Guard(app, token)


def serve(view: View, port: int, opened: Callable[[str], None]) -> None:
    """Serve a view until Ctrl-C or SIGTERM.

    Args:
        view: What is shown.
        port: Port of this machine; 0 takes a free one.
        opened: Called with the address once the server listens.

    Raises:
        InputError: If the port is taken.
    """
    token = secrets.token_urlsafe(24)
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((ADDRESS, port))
        except OSError as error:
            raise InputError(
                f"--port {port}",
                found=f"a port that cannot be opened: {reason(error)}",
                expected="a free port of this machine",
                repair="leave --port out, or name another one.",
            ) from error
        listening.listen()
        config = uvicorn.Config(
            application(view, token),
            log_level="critical",  # the page shows errors
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=PATIENCE,
        )
        opened(f"http://{ADDRESS}:{listening.getsockname()[1]}/{token}/")
        uvicorn.Server(config).run(sockets=[listening])


def _error(status: int, text: str) -> Response:
    return JSONResponse({"error": text}, status_code=status, headers=NOT_KEPT)


async def _refused(request: Request, error: InputError) -> Response:
    return _error(422, error.sentence)


async def _missing(request: Request, error: IndexError) -> Response:
    return _error(404, "The page asks for a layer or date that this server does not show; reload the page.")


async def _failed(request: Request, error: HTTPException) -> Response:
    return _error(error.status_code, error.detail)


async def _broken(request: Request, error: Exception) -> Response:
    return _error(500, f"Internal error: {type(error).__name__}: {reason(error)}")


def _tile(request: Request) -> TileIndex:
    parameters = request.path_params
    tile = TileIndex(parameters["z"], parameters["x"], parameters["y"])
    if not tile.exists:
        raise HTTPException(404, "There is no such tile.")
    return tile


def _hidden(request: Request) -> frozenset[int]:
    """Values of the classes that are hidden, from text such as ``0,3``."""
    text = request.query_params.get("hidden", "")
    try:
        values = frozenset(int(part) for part in text.split(",") if part)
    except ValueError as error:
        raise HTTPException(400, "Hidden classes must be numbers.") from error
    if any(not 0 <= value <= 255 for value in values):
        raise HTTPException(400, "Hidden classes must be numbers from 0 to 255.")
    return values


def _place(request: Request) -> tuple[float, float]:
    try:
        longitude = float(request.query_params["lon"])
        latitude = float(request.query_params["lat"])
    except (KeyError, ValueError) as error:
        raise HTTPException(400, "A place needs the numbers lon and lat.") from error
    if not (-180 <= longitude <= 180 and -90 <= latitude <= 90):
        raise HTTPException(400, "Longitude lies within -180 to 180 degrees, latitude within -90 to 90.")
    return longitude, latitude


def _existing(part: Part | None) -> Part:
    if part is None:
        raise HTTPException(404, "This page shows no such layer.")
    return part
