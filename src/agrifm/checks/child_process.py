"""Read chips in a process that can be killed: a damaged file can keep the HDF5 library busy forever, or crash it."""

from __future__ import annotations

import multiprocessing as mp
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from agrifm.data import hdf5 as h5_files
from agrifm.errors import Unreadable

# Windows has no fork, and on macOS system libraries may crash after one. A new process there starts without the state
# of this one, so the work must be picklable.
METHOD = "fork" if sys.platform == "linux" else "spawn"


class TimeLimitExceeded(Unreadable):
    """A chip that cannot be read, because reading it takes too long or crashes the process."""

    path = Path()


def in_child_process(work: Callable[[], Any], seconds: float) -> Any:
    """Run a function in another process, and return its result.

    Args:
        work: Function that reads chips.
        seconds: Time limit for reading one chip.

    Raises:
        TimeLimitExceeded: If reading a chip takes longer, or crashes the process.
        Exception: Any exception of the function.
    """
    context: Any = mp.get_context(METHOD)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(work, sender), daemon=True)
    process.start()
    sender.close()
    try:
        return _wait_for_answer(receiver, seconds)
    finally:
        process.kill()
        process.join()
        receiver.close()


def _work(work: Callable[[], Any], answers: Connection) -> None:
    torch.set_num_threads(1)  # threads of the parent process do not exist in this one
    h5_files.watcher = lambda path: answers.send(("reading", path))
    try:
        answer = ("done", work())
    except BaseException as error:
        answer = ("failed", error)
    try:
        answers.send(answer)
    except Exception as error:  # an answer that cannot be pickled
        answers.send(("failed", RuntimeError(f"{answer[1]!r}: {error!r}")))


def _wait_for_answer(answers: Connection, seconds: float) -> Any:
    reading: Path | None = None
    while True:
        if not answers.poll(None if reading is None else seconds):
            raise _time_limit_exceeded(reading, f"a file that takes more than {seconds:g} seconds to read")
        try:
            kind, value = answers.recv()
        except EOFError as end:
            if reading is None:
                raise RuntimeError("the process that reads chips has ended without an answer") from end
            raise _time_limit_exceeded(reading, "a file on which the HDF5 library crashes") from end
        if kind == "done":
            return value
        if kind == "failed":
            raise value
        reading = value


def _time_limit_exceeded(path: Path | None, found: str) -> TimeLimitExceeded:
    error = TimeLimitExceeded(
        path,
        found=found,
        expected="a complete HDF5 file",
        repair="restore the file, or delete its line from the list; on a slow disk, allow more with --seconds.",
    )
    error.path = path or Path()
    return error
