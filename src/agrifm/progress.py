"""The terminal: text of unknown origin cannot control it, and long work shows its progress and where its time went."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.segment import Segment

from agrifm.errors import printable

Item = TypeVar("Item")


class Terminal(Console):
    """A console that shows text literally: no markup, no emoji codes, and control characters as escapes.

    Names of classes, bands and folders come from files of unknown origin. Pass styles as arguments or ``Text``.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render as rich does, with control characters as escapes."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                lines = [_visible(line) for line in segment.text.split("\n")]
                yield Segment("\n".join(lines), segment.style)


def _visible(line: str) -> str:
    return line if line.isprintable() else "".join(map(printable, line))


@contextmanager
def counting(console: Console, text: str) -> Generator[Callable[[int, int], None]]:
    """Show a progress bar if there is a terminal.

    Yields:
        A function to call with the number of finished parts and the number of all parts.
    """
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(text, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


class Timing:
    """Seconds that a run waits for each of its parts.

    Parts that run beside each other count once: images that are read while others are computed take no time here.
    """

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._start = time.monotonic()

    @contextmanager
    def during(self, part: str) -> Generator[None]:
        """Add the time that the block takes to a part."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[part] += time.monotonic() - start

    def each(self, part: str, items: Iterator[Item]) -> Iterator[Item]:
        """Yield items, and add the time until each of them is there to a part."""
        while True:
            with self.during(part):
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield item

    def __str__(self) -> str:
        total = time.monotonic() - self._start
        shares = [f"{part} {seconds / total:.0%}" for part, seconds in self.seconds.items()]
        return f"took {timedelta(seconds=round(total))}: {', '.join(shares)}"
