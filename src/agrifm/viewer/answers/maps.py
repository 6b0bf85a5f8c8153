"""Answers about maps, images and parcels."""

from __future__ import annotations

from collections.abc import Callable

from anyio import to_thread
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from agrifm.viewer.answers.replies import NOT_KEPT, Threads, existing, place_of, tile_of
from agrifm.viewer.images import COMPOSITES
from agrifm.viewer.tiles import class_tile, png, surface_tile
from agrifm.viewer.view import Showing, View
from agrifm.viewer.votes import Votes


class MapAnswers:
    """Answers about maps, images and parcels.

    Args:
        showing: What is shown.
        threads: Threads that read.
    """

    def __init__(self, showing: Showing, threads: Threads) -> None:
        self.showing = showing
        self.threads = threads
        self.votes_of = Votes()
        # Pixels are computed one after the other, and must not keep tiles waiting.
        self.voting_thread = Threads(1)

    @property
    def view(self) -> View:
        """What is shown now."""
        return self.showing.view

    @property
    def routes(self) -> dict[str, Callable]:
        """What is answered at each address."""
        tile = "{z:int}/{x:int}/{y:int}.png"
        return {
            "/view.json": self.view_json,
            "/areas/{map:int}.json": self.areas,
            f"/map/{{map:int}}/{{layer:int}}/{tile}": self.map_tile,
            f"/image/{{sensor:int}}/{{step:int}}/{{composite:int}}/{tile}": self.image_tile,
            "/clear/{sensor:int}/{step:int}.json": self.clear,
            "/pixel.json": self.pixel,
            "/series.json": self.series,
            "/votes/{map:int}.json": self.votes,
            "/parcels.json": self.parcels,
        }

    async def view_json(self, request: Request) -> Response:
        """What is shown."""
        return await self.threads.json(request, self.showing.describe)

    async def areas(self, request: Request) -> Response:
        """Hectares of the classes of a map by value."""
        shown = self.showing.opened[request.path_params["map"]]
        return await self.threads.json(request, lambda: shown.hectares)

    async def map_tile(self, request: Request) -> Response:
        """A tile of a map: layer 0 are its classes, the others its surfaces."""
        tile = tile_of(request)
        number, layer = request.path_params["map"], request.path_params["layer"]
        shown = self.showing.opened[number]
        if layer == 0:
            hidden = frozenset(_numbers(request, "hidden"))
            return await self._png(request, (number, tile, hidden), lambda: class_tile(shown, tile, hidden))
        surface = shown.surfaces[layer - 1]
        return await self._png(request, (number, layer, tile), lambda: surface_tile(surface, tile))

    async def image_tile(self, request: Request) -> Response:
        """A tile of a date of the scene."""
        tile = tile_of(request)
        images = existing(self.view.images)
        sensor, step = request.path_params["sensor"], request.path_params["step"]
        images.layer(sensor, step)
        name = list(COMPOSITES)[request.path_params["composite"]]
        veil = request.query_params.get("veil") == "1"

        def draw() -> bytes:
            return png(images.composite(sensor, step, name, tile.box, veil=veil))

        return await self._png(request, ("images", sensor, step, name, veil, tile), draw)

    async def clear(self, request: Request) -> Response:
        """The share of clear pixels of a date."""
        images = existing(self.view.images)
        sensor, step = request.path_params["sensor"], request.path_params["step"]
        images.layer(sensor, step)
        return await self.threads.json(request, lambda: {"clear": images.clear_share(sensor, step)})

    async def pixel(self, request: Request) -> Response:
        """What the maps of the page hold at a place."""
        longitude, latitude = place_of(request)
        numbers = _numbers(request, "maps") or self.showing.numbers
        maps = [self.showing.opened[number] for number in numbers]
        return await self.threads.json(request, lambda: [shown.at(longitude, latitude) for shown in maps])

    async def series(self, request: Request) -> Response:
        """The series of all sensors at a place."""
        images = existing(self.view.images)
        longitude, latitude = place_of(request)
        return await self.threads.json(request, lambda: images.series(longitude, latitude))

    async def votes(self, request: Request) -> Response:
        """The votes of the members of a map's model at a place; null if they are unknown."""
        path = self.showing.opened[request.path_params["map"]].path
        longitude, latitude = place_of(request)
        return await self.voting_thread.json(request, lambda: self.votes_of.at(path, longitude, latitude))

    async def parcels(self, request: Request) -> Response:
        """The parcels as GeoJSON."""
        parcels = existing(self.view.parcels)
        content = await to_thread.run_sync(lambda: parcels.geojson)
        return Response(content, media_type="application/geo+json", headers=NOT_KEPT)

    async def _png(self, request: Request, key: tuple, draw: Callable[[], bytes]) -> Response:
        return await self.threads.png(request, lambda: self.view.cache.get(key, draw))


def _numbers(request: Request, name: str) -> list[int]:
    """Numbers of classes or maps, from text such as ``0,3``."""
    text = request.query_params.get(name, "")
    try:
        values = [int(part) for part in text.split(",") if part]
    except ValueError as error:
        raise HTTPException(400, f"The value of '{name}' must be numbers.") from error
    if any(not 0 <= value <= 255 for value in values):
        raise HTTPException(400, f"The value of '{name}' must be numbers from 0 to 255.")
    return values
