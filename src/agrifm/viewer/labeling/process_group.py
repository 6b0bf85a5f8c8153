"""A command that runs in the background with all processes that it starts, and what its log says."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from agrifm.errors import printable

PATIENCE = 5  # seconds for which a command may clean up before it is killed
TAIL = 1 << 14  # bytes at the end of a log that are read
LONGEST_LINE = 200  # characters that the page shows
PLAIN = {"PYTHONIOENCODING": "utf-8", "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"}  # environment for a log
COLORS = ("FORCE_COLOR", "TTY_COMPATIBLE")  # variables that ask for the colors of a terminal
# An InputError as the command line prints it.
REFUSAL = re.compile(
    r"^error: (?P<where>.*?)\n +found: +(?P<found>.*?)\n +expected: +(?P<expected>.*?)\n +repair: +(?P<repair>.*)",
    re.DOTALL | re.MULTILINE,
)


class ProcessGroup:
    """A running command and the processes that it starts, which end together.

    Args:
        command: Program and arguments.
        log: File to which its output is appended.
    """

    def __init__(self, command: Sequence[str], log: Path) -> None:
        environment = {**os.environ, **PLAIN}
        for name in COLORS:
            environment.pop(name, None)
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment,
                # Ctrl-C in the terminal reaches the viewer alone, which then ends the group.
                start_new_session=True,
            )

    def wait(self) -> int:
        """Return the exit code once the command has ended."""
        return self._process.wait()

    def stop(self, patience: float = PATIENCE) -> None:
        """Ask the processes to end, and kill what is left after some time.

        Args:
            patience: Seconds for which they may clean up.
        """
        if self._process.poll() is not None:
            return
        try:
            self._terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(patience)
        finally:
            self._kill()
            self._process.wait()

    def _terminate(self) -> None:
        if os.name == "posix":
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGTERM)
        else:
            self._process.terminate()

    def _kill(self) -> None:
        if os.name == "posix":
            with suppress(ProcessLookupError, PermissionError):  # macOS: no permission for a group that has just ended
                os.killpg(self._process.pid, signal.SIGKILL)
        else:
            self._process.kill()


def last_line(log: Path) -> str:
    """Return the last line of a log that holds a word, without control characters; empty if there is none."""
    for line in reversed(_tail(log).splitlines()):
        if any(character.isalnum() for character in line):
            return printable(" ".join(line.split()))[:LONGEST_LINE]
    return ""


def refusal_in(log: Path) -> str | None:
    """Return the last refusal of a log in one sentence, or None."""
    found = list(REFUSAL.finditer(_tail(log)))
    if not found:
        return None
    where, value, expected, repair = found[-1].group("where", "found", "expected", "repair")
    text = f"{where}: found {value}, expected {expected}; {repair}"
    return printable(" ".join(text.split()))


def _tail(log: Path) -> str:
    """Return the end of a log as text."""
    if not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL))
        return file.read().decode("utf-8", "replace")
