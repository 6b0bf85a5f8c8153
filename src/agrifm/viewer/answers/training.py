"""Answers about training from labels: how far it is; it is started and cancelled by the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from starlette.requests import Request
from starlette.responses import Response

from agrifm.viewer.answers.replies import Threads, document_of
from agrifm.viewer.labeling.training import Training
from agrifm.viewer.view import Showing

LONGEST_BODY = 1 << 10  # bytes of a request to start or cancel


class TrainingAnswers:
    """Answers about training.

    Args:
        training: The training.
        showing: What is shown; a new map is added to it.
        threads: Threads that start and cancel.
    """

    def __init__(self, training: Training, showing: Showing, threads: Threads) -> None:
        self.training = training
        self.showing = showing
        self.threads = threads

    @property
    def routes(self) -> dict[str, Callable]:
        """What is answered at each address."""
        return {"/training.json": self.describe}

    @property
    def writing_routes(self) -> dict[str, Callable]:
        """What is started and cancelled at each address, by PUT."""
        return {"/training.json": self.start, "/training/cancel.json": self.cancel}

    async def describe(self, request: Request) -> Response:
        """State of the latest training."""
        return await self.threads.json(request, self.training.describe)

    async def start(self, request: Request) -> Response:
        """Train from the saved labels."""
        document = await document_of(request, LONGEST_BODY)
        version = document.get("version") if isinstance(document, Mapping) else None
        return await self.threads.json(request, lambda: self.training.start(version, self.showing.add_map))

    async def cancel(self, request: Request) -> Response:
        """End the training that runs."""
        await document_of(request, LONGEST_BODY)
        return await self.threads.json(request, self.training.cancel)
