"""Parts of all answers: files of the page, values and pictures computed in threads, and refusals."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any, TypeVar

from anyio import CapacityLimiter, to_thread
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from agrifm.errors import InputError, reason
from agrifm.viewer.tiles import TileIndex

READERS = 4  # requests that read at the same time
KEPT = {"Cache-Control": "private, max-age=86400"}  # by the browser; the address changes with every start
NOT_KEPT = {"Cache-Control": "no-store"}
SCRIPT = "text/javascript; charset=utf-8"
KINDS = {".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}
KINDS |= {".js": SCRIPT, ".mjs": SCRIPT}
FOLDERS = {"": "", "vendor": "", "js": "js/"}  # folder in the package, and its place in addresses

Part = TypeVar("Part")


class Threads:
    """Computes answers in a few threads, so that the page stays quick.

    Args:
        readers: Requests that are answered at the same time.
    """

    def __init__(self, readers: int = READERS) -> None:
        self.readers = CapacityLimiter(readers)

    async def json(self, request: Request, compute: Callable[[], Any]) -> Response:
        """Answer with a value as JSON."""
        return await self.respond(request, lambda: JSONResponse(compute(), headers=NOT_KEPT))

    async def png(self, request: Request, draw: Callable[[], bytes]) -> Response:
        """Answer with a picture that the browser may keep."""
        return await self.respond(request, lambda: Response(draw(), media_type="image/png", headers=KEPT))

    async def respond(self, request: Request, answer: Callable[[], Response]) -> Response:
        """Answer with what is computed in a thread."""
        async with self.readers:
            # A date slider that moves on leaves requests behind; those are not worth reading for.
            if await request.is_disconnected():
                return Response(status_code=204)
            return await to_thread.run_sync(answer)


class PageFiles:
    """The files of all pages, held in memory so that no request leads to the disk.

    Args:
        start: File that the bare address shows.
    """

    def __init__(self, start: str) -> None:
        self.files: dict[str, tuple[bytes, str]] = {}
        package = files("agrifm.viewer") / "static"
        for folder, place in FOLDERS.items():
            for file in package.joinpath(folder).iterdir():
                kind = KINDS.get("." + file.name.rpartition(".")[2])
                if file.is_file() and kind is not None:
                    self.files[place + file.name] = file.read_bytes(), kind
        self.files[""] = self.files[start]

    async def page(self, request: Request) -> Response:
        """Answer with a file of the page."""
        return self._file(request.path_params.get("name", ""))

    async def script(self, request: Request) -> Response:
        """Answer with a script."""
        return self._file("js/" + request.path_params["name"])

    def _file(self, name: str) -> Response:
        if name not in self.files:
            raise HTTPException(404, "There is no such file.")
        content, kind = self.files[name]
        return Response(content, media_type=kind, headers=NOT_KEPT)


def error(status: int, text: str) -> Response:
    """Return a refusal that the page shows."""
    return JSONResponse({"error": text}, status_code=status, headers=NOT_KEPT)


async def _refused(request: Request, refusal: InputError) -> Response:
    return error(422, refusal.sentence)


async def _missing(request: Request, missing: IndexError) -> Response:
    return error(404, "The page asks for a part that this server does not show; reload the page.")


async def _failed(request: Request, failure: HTTPException) -> Response:
    return error(failure.status_code, failure.detail)


async def _broken(request: Request, defect: Exception) -> Response:
    return error(500, f"Internal error: {type(defect).__name__}: {reason(defect)}")


HANDLERS: Mapping[Any, Any] = {
    InputError: _refused,
    IndexError: _missing,
    HTTPException: _failed,
    Exception: _broken,
}


def tile_of(request: Request) -> TileIndex:
    """Return the tile that a request names."""
    parameters = request.path_params
    tile = TileIndex(parameters["z"], parameters["x"], parameters["y"])
    if not tile.exists:
        raise HTTPException(404, "There is no such tile.")
    return tile


def place_of(request: Request) -> tuple[float, float]:
    """Return the longitude and latitude that a request names."""
    try:
        longitude = float(request.query_params["lon"])
        latitude = float(request.query_params["lat"])
    except (KeyError, ValueError) as problem:
        raise HTTPException(400, "A place needs the numbers lon and lat.") from problem
    is_place = math.isfinite(longitude) and -180 <= longitude <= 180 and -90 <= latitude <= 90
    if not is_place:
        raise HTTPException(400, "Longitude lies within -180 to 180 degrees, latitude within -90 to 90.")
    return longitude, latitude


def existing(part: Part | None) -> Part:
    """Return a part of the page, if it is shown."""
    if part is None:
        raise HTTPException(404, "This page shows no such layer.")
    return part


async def document_of(request: Request, most: int) -> object:
    """Return the JSON that a page sends to be written, read within a limit whatever length it states.

    Args:
        request: The request.
        most: Bytes that it may take.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise HTTPException(415, "What is written has to be sent as JSON.")
    parts = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise HTTPException(413, f"The page sends more than {most:,} bytes, which is the most; draw fewer labels.")
        parts.append(part)
    try:
        return json.loads(b"".join(parts))
    except (ValueError, RecursionError) as problem:
        raise HTTPException(400, "The page sends no JSON.") from problem
