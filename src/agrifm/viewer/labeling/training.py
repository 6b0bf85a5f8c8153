"""Training from the labels that a person draws: the commands of the shell, run in the background, up to a new map."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock, Thread
from typing import Any

from agrifm.errors import InputError, counted, printable, reason
from agrifm.io import refuse_unwritable, whole_folder, write_csv, write_whole
from agrifm.viewer.labeling.labels import CLASS, LabelFile
from agrifm.viewer.labeling.process_group import ProcessGroup, last_line, refusal_in

PROGRAM = (sys.executable, "-P", "-m", "agrifm.cli")  # -P: no modules of the folder in which the viewer was started
NAME = "agrifm"  # of the program in the list of commands
COMMANDS = "commands.txt"  # by which a folder of an earlier training is recognized
LOG = "log.txt"
LABELS = "labels.gpkg"  # copy from which it is trained, while more are drawn
CLASSES = "classes.csv"  # keeps the colors of the page
SIZE = 24  # rows and columns of a chip; drawn labels are few, and small chips make enough blocks to split
FEWEST_LABELS = 3  # of a class: two to learn from, and one to validate with
SEAMS = 3  # exit code of 'agrifm map' for a map with visible window borders, which is complete nevertheless

Show = Callable[[Path], int]  # opens a new map and returns its number


@dataclass(frozen=True)
class SceneSource:
    """How the scene is named on the command line.

    Args:
        path: Path of the scene, or the provenance of a map that was made from it.
        settings: ``key=value`` of ``scene.yaml``.
        skip_unreadable: Leave out dates with a file that does not open.
    """

    path: Path
    settings: tuple[str, ...] = ()
    skip_unreadable: bool = False

    @property
    def options(self) -> list[str]:
        """Options of the command line."""
        words = []
        for setting in self.settings:
            words += ["--set", setting]
        if self.skip_unreadable:
            words.append("--skip-unreadable")
        return words


@dataclass(frozen=True)
class Step:
    """One command.

    Args:
        title: What it does, for the page.
        words: Its arguments.
        accepted: Exit codes after which the next step begins.
    """

    title: str
    words: tuple[str, ...]
    accepted: tuple[int, ...] = (0,)

    @property
    def text(self) -> str:
        """The command as it would be typed."""
        words = [NAME, *self.words]
        return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


class Job:
    """One training: its commands run one after the other in a thread.

    Args:
        folder: Its folder.
        steps: Its commands.
        program: Program that runs them.
        target: Map that the last one writes.
    """

    def __init__(self, folder: Path, steps: Sequence[Step], program: Sequence[str], target: Path) -> None:
        self.folder = folder
        self.steps = tuple(steps)
        self.target = target
        self.map: int | None = None
        self.error = ""
        self._program = tuple(program)
        self._step = 0
        self._cancelled = False
        self._start = time.monotonic()
        self._end: float | None = None
        self._group: ProcessGroup | None = None
        self._lock = Lock()
        self._thread: Thread | None = None

    def start(self, show: Show) -> None:
        """Begin; ``show`` is called with the map once it is complete."""
        self._thread = Thread(target=self._run, args=(show,), daemon=True)
        self._thread.start()

    @property
    def state(self) -> str:
        """``running``, ``cancelled``, ``failed`` or ``done``."""
        if self._end is None:
            return "running"
        if self.map is not None:
            return "done"
        return "cancelled" if self._cancelled else "failed"

    def describe(self) -> dict[str, Any]:
        """Return what the page shows."""
        end = self._end or time.monotonic()
        return {
            "state": self.state,
            "folder": str(_short(self.folder)),
            "steps": [step.title for step in self.steps],
            "step": self._step,
            "seconds": round(end - self._start),
            "line": last_line(self.folder / LOG),
            "error": self.error,
            "commands": [step.text for step in self.steps],
            "map": self.map,
        }

    def cancel(self) -> None:
        """End the command that runs, and begin no other one."""
        with self._lock:
            if self._end is not None:
                return
            self._cancelled = True
            group = self._group
        if group is not None:
            group.stop()
        if self._thread is not None:
            self._thread.join()

    def _run(self, show: Show) -> None:
        try:
            self._run_steps(show)
        except InputError as error:
            self.error = error.sentence
        except Exception as error:  # whatever it is, the page has to learn of it
            self.error = f"Internal error: {type(error).__name__}: {reason(error)}"
        finally:
            self._end = time.monotonic()

    def _run_steps(self, show: Show) -> None:
        log = self.folder / LOG
        for number, step in enumerate(self.steps):
            with self._lock:
                if self._cancelled:
                    return
                self._step = number
                self._group = ProcessGroup([*self._program, *step.words], log)
            code = self._group.wait()
            if self._cancelled:
                return
            if code not in step.accepted:
                last = f"'{NAME} {step.words[0]}' ended with exit code {code}: {last_line(log) or 'no output'}"
                self.error = refusal_in(log) or last
                return
        self.map = show(self.target)


class Training:
    """Trainings from drawn labels, one at a time, each in a new numbered folder.

    Args:
        folder: Folder of all of them.
        labels: The labels.
        scene: The scene that is mapped.
        program: Program that runs the commands.
    """

    def __init__(self, folder: Path, labels: LabelFile, scene: SceneSource, program: Sequence[str] = PROGRAM) -> None:
        self.folder = folder
        self.labels = labels
        self.scene = scene
        self.program = tuple(program)
        self._job: Job | None = None
        self._lock = Lock()

    @classmethod
    def open(cls, folder: Path, labels: LabelFile, scene: SceneSource) -> Training:
        """Prepare the folder of trainings.

        Args:
            folder: A folder that is new, empty, or of earlier trainings.
            labels: The labels.
            scene: The scene that is mapped.

        Raises:
            InputError: If the folder cannot be written or holds something else.
        """
        refuse_unwritable(folder)
        for entry in sorted(folder.iterdir()):
            is_earlier = entry.name.isdecimal() and (entry / COMMANDS).is_file()
            if not is_earlier and not entry.name.startswith("."):
                raise InputError(
                    f"--train {folder}",
                    found=f"'{entry.name}' in it",
                    expected="a folder that is new, empty, or of earlier trainings of the viewer",
                    repair="name another folder.",
                )
        return cls(folder, labels, scene)

    def describe(self) -> dict[str, Any]:
        """Return the state of the latest training; ``state`` is ``none`` before the first one."""
        job = self._job
        return {"state": "none"} if job is None else job.describe()

    def start(self, version: object, show: Show) -> dict[str, Any]:
        """Start to train from the saved labels.

        Args:
            version: Version of the labels that the page has read or saved last.
            show: Called with the path of the new map once it is complete.

        Returns:
            The state.

        Raises:
            InputError: If a training runs, or the labels were changed elsewhere or are too few.
        """
        with self._lock:
            if self._job is not None and self._job.state == "running":
                raise InputError(
                    "training",
                    found="a training that runs",
                    expected="one at a time",
                    repair="wait until it has finished, or cancel it.",
                )
            self._job = self._prepared(version)
            self._job.start(show)
        return self.describe()

    def cancel(self) -> dict[str, Any]:
        """End the training that runs, if there is one; return the state."""
        job = self._job
        if job is not None:
            job.cancel()
        return self.describe()

    def _prepared(self, version: object) -> Job:
        """Copy the labels into a new folder, and write the commands beside them."""
        _refuse_few(self.labels)
        numbers = [int(entry.name) for entry in self.folder.iterdir() if entry.name.isdecimal()]
        folder = self.folder.absolute() / str(max(numbers, default=0) + 1)
        target = folder / f"map_{folder.name}.tif"
        steps = _steps(folder, target, self.scene)
        counts = self.labels.counts()
        title = f"# Trained from {counted(sum(counts.values()), 'label')} of {printable(self.labels.path.name)}."
        lines = [title, f"cd {shlex.quote(str(Path.cwd()))}", *(step.text for step in steps)]
        rows = [[entry.name, entry.name, entry.color] for entry in self.labels.classes if entry.name in counts]
        with whole_folder(folder) as unfinished:
            self.labels.copy_to(unfinished / LABELS, version)
            write_csv(unfinished / CLASSES, [["code", "name", "color"], *rows])
            write_whole(unfinished / COMMANDS, "\n".join(lines) + "\n")
        return Job(folder, steps, self.program, target)


def _steps(folder: Path, target: Path, scene: SceneSource) -> list[Step]:
    """Return the commands that a person would type."""
    folder = _short(folder)
    target = _short(target)
    images = str(_short(scene.path))
    chips = folder / "chips"
    run = folder / "run"
    cut = ["chips", images, str(folder / LABELS), str(chips)]
    cut += ["--class-column", CLASS, "--classes", str(folder / CLASSES)]
    # Drawn labels are no random sample, so that scores on a test split would say little: all of them are learned from.
    cut += ["--size", str(SIZE), "--test", "0", *scene.options]
    train = ["train", str(chips / "crops.yaml"), "--out", str(run), "--quick"]
    write = ["map", str(run / "best.safetensors"), images, str(target), "--confidence", *scene.options]
    return [
        Step("Cutting chips", tuple(cut)),
        Step("Training classifiers", tuple(train)),
        Step("Mapping the scene", tuple(write), (0, SEAMS)),
    ]


def _short(path: Path) -> Path:
    """Return a path as seen from the current folder if it lies below; no path begins like an option."""
    path = path.absolute()
    here = Path.cwd()
    is_below = path.is_relative_to(here) and not str(path.relative_to(here)).startswith("-")
    return path.relative_to(here) if is_below else path


def _refuse_few(labels: LabelFile) -> None:
    counts = labels.counts()
    repair = "draw and save further labels."
    if len(counts) < 2:
        raise InputError(
            labels.path,
            found=f"labels of {counted(len(counts), 'class', 'classes')}",
            expected="labels of at least two classes",
            repair=repair,
        )
    for name, count in counts.items():
        if count < FEWEST_LABELS:
            raise InputError(
                labels.path,
                found=f"{counted(count, 'label')} of the class '{name}'",
                expected=f"at least {FEWEST_LABELS} of each class, in different fields",
                repair=repair,
            )
