"""Answers about labels: the only requests that write, and only the file that was named at the start."""

from __future__ import annotations

import json
from collections.abc import Callable

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from agrifm.viewer.answers.replies import Threads
from agrifm.viewer.class_map import ClassMap
from agrifm.viewer.labeling.labels import LabelFile
from agrifm.viewer.labeling.worklist import worklist

LONGEST_BODY = 32 * 2**20  # bytes of labels that a page sends


class LabelAnswers:
    """Answers about the labels of a map or scene.

    Args:
        labels: The labels.
        shown: Map whose confidence orders the worklist; None for a scene.
        threads: Threads that read and write.
    """

    def __init__(self, labels: LabelFile, shown: ClassMap | None, threads: Threads) -> None:
        self.labels = labels
        self.shown = shown
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
        shown = self.shown
        return await self.threads.json(request, lambda: [] if shown is None else worklist(shown))

    async def save(self, request: Request) -> Response:
        """Write all labels."""
        body = await _body(request)
        return await self.threads.json(request, lambda: self.labels.save(_document(body)))


async def _body(request: Request) -> bytes:
    """Return the body of a request, read within a limit whatever length it states."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise HTTPException(415, "Labels are saved as JSON.")
    parts = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > LONGEST_BODY:
            raise HTTPException(413, f"The labels take more than {LONGEST_BODY >> 20} MB; draw fewer of them.")
        parts.append(part)
    return b"".join(parts)


def _document(body: bytes) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, "The labels are no JSON.") from error
