"""Answers about a sample that is interpreted. None of them tells a point's stratum or its class on the map."""

from __future__ import annotations

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response

from agrifm.viewer.answers.replies import Threads, document_of
from agrifm.viewer.interpretation.interpreted import Interpretation
from agrifm.viewer.tiles import png

LONGEST_BODY = 64 * 2**10  # bytes of one answer


class InterpretationAnswers:
    """Answers about a sample.

    Args:
        interpretation: The sample and its images.
        threads: Threads that read and write.
    """

    def __init__(self, interpretation: Interpretation, threads: Threads) -> None:
        self.interpretation = interpretation
        self.threads = threads

    @property
    def routes(self) -> dict[str, Callable]:
        """What is answered at each address."""
        return {
            "/sample.json": self.sample,
            "/point/{point:int}.json": self.point,
            "/point/{point:int}/{sensor:int}/{step:int}/{composite:int}.png": self.picture,
            "/estimate.json": self.estimate,
        }

    @property
    def writing_routes(self) -> dict[str, Callable]:
        """What is written at each address, by PUT."""
        return {"/answer.json": self.save}

    async def sample(self, request: Request) -> Response:
        """Classes, points and dates."""
        return await self.threads.json(request, self.interpretation.describe)

    async def point(self, request: Request) -> Response:
        """The pixel and the series of a point."""
        number = request.path_params["point"]
        return await self.threads.json(request, lambda: self.interpretation.point(number))

    async def picture(self, request: Request) -> Response:
        """A date around a point."""
        asked = request.path_params

        def draw() -> bytes:
            image = self.interpretation.picture(asked["point"], asked["sensor"], asked["step"], asked["composite"])
            return png(image)

        return await self.threads.png(request, draw)

    async def estimate(self, request: Request) -> Response:
        """Accuracies and areas, once every point is answered."""
        return await self.threads.json(request, self.interpretation.estimate)

    async def save(self, request: Request) -> Response:
        """Write one answer."""
        document = await document_of(request, LONGEST_BODY)
        return await self.threads.json(request, lambda: self.interpretation.sample.save(document))
