"""Answers about a run of training."""

from __future__ import annotations

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response

from agrifm.viewer.answers.replies import Threads
from agrifm.viewer.runs import Run


class RunAnswers:
    """Answers about a run.

    Args:
        run: The run.
        threads: Threads that read.
    """

    def __init__(self, run: Run, threads: Threads) -> None:
        self.run = run
        self.threads = threads

    @property
    def routes(self) -> dict[str, Callable]:
        """What is answered at each address."""
        return {"/run.json": self.describe}

    async def describe(self, request: Request) -> Response:
        """Curves, scores and reliability."""
        return await self.threads.json(request, self.run.describe)
