"""Run mutated inputs through the readers of this project in child processes, and count what becomes of them.

    python tests/fuzz/harness.py --cases 10000 --workers 2

Every case is ``(format, seed)`` and can be repeated alone: ``python tests/fuzz/harness.py --format chip --seed 17``.
Two outcomes are good: ``right`` (accepted, and the result keeps the promises of its format) and ``refused`` (one
``InputError``). Five must not occur: ``silent`` (accepted, with a result that breaks a promise), ``traceback`` (any
other exception, running out of memory included), ``hang`` (no answer within the time limit), ``crash`` (the process
died) and ``outside`` (code was run, a file outside of the case was written or read, or the network was used).
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import http.server
import multiprocessing
import multiprocessing.connection
import os
import random
import resource
import shutil
import sys
import tempfile
import threading
import time
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import formats
import numpy as np

from agrifm.errors import InputError

OUTCOMES = ("right", "refused", "silent", "traceback", "hang", "crash", "outside")
BAD = OUTCOMES[2:]
TIME_LIMIT = 30.0  # seconds for one case
PREPARING = 120.0  # more seconds where a process writes the valid input of a format first
MEMORY_LIMIT = 3 << 30  # bytes beyond what the process holds before its first case
FORBIDDEN_EVENTS = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "socket.connect", "shutil.rmtree")


@dataclass(frozen=True)
class Result:
    """What became of one case."""

    format: str
    seed: int
    outcome: str
    text: str = ""


class Outside(Exception):
    """The code under test reached for something outside of its case."""


class Guard:
    """Notices, through Python's audit events, what a case must not do: run programs, connect, write elsewhere."""

    def __init__(self) -> None:
        self.folder: str | None = None
        self.seen: list[str] = []
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.folder is None:
            return
        if event in FORBIDDEN_EVENTS and not (event == "shutil.rmtree" and self._inside(arguments[0])):
            self.seen.append(f"{event} {arguments[:2]!r:.200}")
        if event == "open" and self._writes(arguments) and not self._inside(arguments[0]):
            self.seen.append(f"open for writing {arguments[0]!r:.200}")

    def _writes(self, arguments: tuple[Any, ...]) -> bool:
        flags = arguments[2] if len(arguments) > 2 and isinstance(arguments[2], int) else 0
        return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))

    def _inside(self, path: Any) -> bool:
        if not isinstance(path, str | bytes | os.PathLike):  # a file descriptor
            return True
        text = os.path.realpath(os.fsdecode(path))
        return text.startswith((str(self.folder), "/dev/")) or "__pycache__" in text


class Requests(http.server.BaseHTTPRequestHandler):
    """Counts requests; no case may make one."""

    count = 0

    def do_GET(self) -> None:
        """Answer with nothing."""
        type(self).count += 1
        self.send_error(404)

    do_HEAD = do_POST = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Stay quiet."""


def serve(connection: multiprocessing.connection.Connection, port: int) -> None:
    """Run cases as they are asked for, until the parent closes the connection."""
    with tempfile.TemporaryDirectory(prefix="agrifm-fuzz-") as name:
        os.environ["TMPDIR"] = name
        tempfile.tempdir = None
        root = Path(name).resolve()
        secret = formats.write_secret(root / "outside")
        tokens = formats.tokens(secret, port)
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        address_space = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (max(address_space, used) + MEMORY_LIMIT,) * 2)
        guard = Guard()
        templates: dict[str, Path] = {}
        with contextlib.suppress(EOFError, KeyboardInterrupt):
            while True:
                kind, seed = connection.recv()
                if kind not in templates:
                    templates[kind] = root / "templates" / kind
                    templates[kind].mkdir(parents=True)
                    formats.FORMATS[kind].prepare(templates[kind])
                    _check_template(kind, templates[kind])
                connection.send(_run(kind, seed, templates[kind], root / "case", tokens, guard))


def _check_template(kind: str, template: Path) -> None:
    """The unchanged input must be right, or the cases would say nothing."""
    scratch = template.with_name(f"{kind}-unchanged")
    shutil.copytree(template, scratch, symlinks=True)
    formats.FORMATS[kind].read(scratch)


def _run(kind: str, seed: int, template: Path, case: Path, tokens: list[str], guard: Guard) -> Result:
    shutil.rmtree(case, ignore_errors=True)
    shutil.copytree(template, case, symlinks=True)
    rng = random.Random(f"{kind} {seed}")
    formats.FORMATS[kind].mutate(case, rng, tokens)
    guard.seen.clear()
    guard.folder = str(case.parent)
    before = _listing(case.parent / "outside")
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"), contextlib.redirect_stderr(None):
            warnings.simplefilter("ignore")
            formats.FORMATS[kind].read(case)
        outcome, text = "right", ""
    except InputError as error:
        outcome, text = "refused", str(error)
    except formats.BrokenPromise as error:
        outcome, text = "silent", str(error)
    except formats.SecretRead as error:
        outcome, text = "outside", str(error)
    except (Exception, MemoryError):
        outcome, text = "traceback", traceback.format_exc()
    finally:
        guard.folder = None
    if guard.seen:
        outcome, text = "outside", "; ".join(guard.seen)
    if _listing(case.parent / "outside") != before:
        outcome, text = "outside", "a file outside of the case has changed"
    return Result(kind, seed, outcome, text)


def _listing(folder: Path) -> list[tuple[str, int, int]]:
    """Names, sizes and times of the files that no case may touch."""
    return sorted((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*"))


class Worker:
    """A child process that runs one case after another."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.start()

    def start(self) -> None:
        """Start the process, or start it again after a hang or crash."""
        context = multiprocessing.get_context("fork")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, self.port), daemon=True)
        self.process.start()
        theirs.close()
        self.case: tuple[str, int] | None = None
        self.prepared: set[str] = set()

    def give(self, case: tuple[str, int]) -> None:
        """Start a case; the first of a format may take longer, since its input is written first."""
        self.case, self.begun = case, time.monotonic()
        self.limit = TIME_LIMIT + (0 if case[0] in self.prepared else PREPARING)
        self.prepared.add(case[0])
        self.connection.send(case)

    def take(self) -> Result | None:
        """The result of the case, if there is one by now."""
        assert self.case is not None
        result = None
        with contextlib.suppress(EOFError, ConnectionResetError):
            if self.connection.poll():
                result = self.connection.recv()
        if result is not None:
            self.case = None
            return result
        if not self.process.is_alive():
            return self._lost("crash")
        if time.monotonic() - self.begun > self.limit:
            return self._lost("hang")
        return None

    def _lost(self, outcome: str) -> Result:
        assert self.case is not None
        result = Result(*self.case, outcome)
        self.stop()
        self.start()
        return result

    def stop(self) -> None:
        """End the process, whatever it is doing."""
        self.process.kill()
        self.process.join()


def run(cases: list[tuple[str, int]], workers: int = 1, show: bool = False) -> list[Result]:
    """Run cases ``(format, seed)`` and return their results in the order in which they ended."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Requests)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Requests.count = 0
    team = [Worker(server.server_port) for _ in range(workers)]
    results: list[Result] = []
    left = collections.deque(cases)
    try:
        while left or any(worker.case for worker in team):
            for worker in team:
                if worker.case is None and left:
                    worker.give(left.popleft())
            busy = [worker for worker in team if worker.case is not None]
            multiprocessing.connection.wait([worker.connection for worker in busy], timeout=0.5)
            ended = [result for worker in busy if (result := worker.take()) is not None]
            results += ended
            if show:
                _show(ended, len(results), len(cases))
    finally:
        for worker in team:
            worker.stop()
        server.shutdown()
    if Requests.count:
        results.append(Result("network", 0, "outside", f"{Requests.count} requests reached the local server"))
    return results


def _show(ended: list[Result], done: int, total: int) -> None:
    for result in ended:
        if result.outcome in BAD:
            print(f"{result.outcome}: --format {result.format} --seed {result.seed}\n{result.text}", flush=True)
    if ended and done % 500 == 0:
        print(f"{done} of {total}", flush=True)


def table(results: list[Result]) -> str:
    """Counts by format and outcome, as Markdown."""
    kinds = sorted({result.format for result in results})
    counts = collections.Counter((result.format, result.outcome) for result in results)
    rows = [f"| format | {' | '.join(OUTCOMES)} |", f"|---|{'---:|' * len(OUTCOMES)}"]
    for kind in kinds:
        rows.append(f"| {kind} | {' | '.join(str(counts[kind, outcome]) for outcome in OUTCOMES)} |")
    sums = [str(sum(counts[kind, outcome] for kind in kinds)) for outcome in OUTCOMES]
    rows.append(f"| all | {' | '.join(sums)} |")
    return "\n".join(rows)


def spread(count: int, first_seed: int = 0) -> list[tuple[str, int]]:
    """So many cases, equally many of each format."""
    kinds = list(formats.FORMATS)
    return [(kinds[i % len(kinds)], first_seed + i // len(kinds)) for i in range(count)]


def main() -> None:
    """Run the cases that the command line asks for; exit code 1 if one ended badly."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--format", choices=sorted(formats.FORMATS))
    parser.add_argument("--seed", type=int)
    parser.add_argument("--first-seed", type=int, default=0)
    options = parser.parse_args()
    cases = spread(options.cases, options.first_seed)
    if options.format:
        cases = [(options.format, options.first_seed + i) for i in range(options.cases)]
    if options.seed is not None:
        cases = [(options.format, options.seed)]
    results = run(cases, options.workers, show=True)
    if options.seed is not None:
        print(results[0].outcome, results[0].text)
    print(table(results))
    sys.exit(any(result.outcome in BAD for result in results))


if __name__ == "__main__":
    main()
