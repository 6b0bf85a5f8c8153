"""Answers about labels: the only requests that write, and only the file that was named at the start."""

from __future__ import annotations

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response

from agrifm.viewer.answers.replies import Threads, document_of
from agrifm.viewer.labeling.labels import LabelFile
from agrifm.viewer.labeling.worklist import worklist
from agrifm.viewer.view import Showing

LONGEST_BODY = 32 * 2**20  # bytes of labels that a page sends


class LabelAnswers:
    """Answers about the labels of a map or scene.

    Args:
        labels: The labels.
        showing: What is shown; the confidence of its first map orders the worklist.
        threads: Threads that read and write.
    """

    def __init__(self, labels: LabelFile, showing: Showing, threads: Threads) -> None:
        self.labels = labels
        self.showing = showing
        self.threads = threads

    @property
    def routes(self) -> dict[str, Callable]:
        """What is answered at each address."""
        return {"/labels.json": self.read, "/worklist.json": self.worklist}

    @property
    def writing_routes(self) -> dict[str, Callable]:
        """What is written at each address, by PUT."""
        return {"/labels.json": self.save}

    async def read(self, request: Request) -> Response:
        """All labels."""
        return await self.threads.json(request, self.labels.describe)

    async def worklist(self, request: Request) -> Response:
        """Places where the map is least sure."""
        maps = self.showing.view.maps
        return await self.threads.json(request, lambda: worklist(maps[0]) if maps else [])

    async def save(self, request: Request) -> Response:
        """Write all labels."""
        document = await document_of(request, LONGEST_BODY)
        return await self.threads.json(request, lambda: self.labels.save(document))
