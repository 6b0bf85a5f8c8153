"""Answers about chips."""

from __future__ import annotations

import math
from collections.abc import Callable

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from agrifm.viewer.answers.replies import Threads
from agrifm.viewer.chips import ChipSet
from agrifm.viewer.tiles import png


class ChipAnswers:
    """Answers about the chips of a data set.

    Args:
        chips: The chips.
        threads: Threads that read.
    """

    def __init__(self, chips: ChipSet, threads: Threads) -> None:
        self.chips = chips
        self.threads = threads

    @property
    def routes(self) -> dict[str, Callable]:
        """What is answered at each address."""
        return {
            "/chips.json": self.contents,
            "/chip/{chip:int}.json": self.chip,
            "/chip/{chip:int}/series.json": self.series,
            "/chip/{chip:int}/label.png": self.label,
            "/chip/{chip:int}/thumbnail.png": self.thumbnail,
            "/chip/{chip:int}/{sensor:int}/{step:int}.png": self.picture,
        }

    async def contents(self, request: Request) -> Response:
        """All chips with their footprints and labels."""
        return await self.threads.json(request, lambda: self.chips.contents)

    async def chip(self, request: Request) -> Response:
        """Dates and series of a chip."""
        number = request.path_params["chip"]
        return await self.threads.json(request, lambda: self.chips.chip(number))

    async def series(self, request: Request) -> Response:
        """The series of a pixel of a chip."""
        number = request.path_params["chip"]
        x, y = _share(request, "x"), _share(request, "y")
        return await self.threads.json(request, lambda: self.chips.series(number, x, y))

    async def label(self, request: Request) -> Response:
        """The label of a chip in the colors of its classes."""
        number = request.path_params["chip"]
        return await self.threads.png(request, lambda: png(self.chips.label_picture(number)))

    async def thumbnail(self, request: Request) -> Response:
        """The clearest date of a chip."""
        number = request.path_params["chip"]

        def draw() -> bytes:
            return png(self.chips.picture(number, *self.chips.clearest(number)))

        return await self.threads.png(request, draw)

    async def picture(self, request: Request) -> Response:
        """A date of a chip."""
        number, sensor = request.path_params["chip"], request.path_params["sensor"]
        step = request.path_params["step"]
        return await self.threads.png(request, lambda: png(self.chips.picture(number, sensor, step)))


def _share(request: Request, name: str) -> float:
    """Return a place within a chip, from 0 up to 1."""
    try:
        value = float(request.query_params[name])
    except (KeyError, ValueError) as error:
        raise HTTPException(400, "A pixel needs the numbers x and y.") from error
    if not math.isfinite(value) or not 0 <= value < 1:
        raise HTTPException(400, "A pixel lies within 0 to 1 of a chip.")
    return value
