"""A sample as the viewer shows it to people who interpret it: blind to strata and map until every point is answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agrifm.errors import InputError, counted, printable
from agrifm.opening import open_scene
from agrifm.statistics.design import Design
from agrifm.statistics.interpretation import estimates, read_answers
from agrifm.statistics.tables import estimate_record, notes
from agrifm.tasks.segmentation import PALETTE
from agrifm.viewer.images import located
from agrifm.viewer.interpretation.answer_file import AnswerFile
from agrifm.viewer.interpretation.point_images import PointImages


@dataclass(frozen=True)
class Interpretation:
    """A sample, and the images around its points.

    Args:
        sample: The sample.
        images: Images; None if no scene was named.
        notes: What could not be shown and why, for the page.
    """

    sample: AnswerFile
    images: PointImages | None
    notes: tuple[str, ...] = ()

    @classmethod
    def open(
        cls, path: Path, scene: Path | None = None, settings: Sequence[str] = (), *, skip_unreadable: bool = False
    ) -> Interpretation:
        """Open a sample and a scene.

        Args:
            path: CSV or GeoPackage of ``agrifm area design``.
            scene: Scene whose images are shown.
            settings: ``key=value`` of ``scene.yaml``, for the scene.
            skip_unreadable: Leave out dates of the scene with a file that does not open.

        Raises:
            InputError: If either cannot be used.
        """
        sample = AnswerFile.open(path)
        if scene is None:
            return cls(sample, None)
        found = open_scene(scene, settings, skip_unreadable=skip_unreadable)
        left_out = tuple(f"Left out, because it cannot be read: {href}" for href in found.skipped)
        return cls(sample, PointImages(located(found), sample.response), left_out)

    def describe(self) -> dict[str, Any]:
        """Return what the page needs at its start: classes, points with their answers, and the dates of the images."""
        classes = []
        for number, name in enumerate(self.sample.response.classes):
            classes.append({"name": name, "color": PALETTE[number % len(PALETTE)]})
        return {
            "title": printable(self.sample.path.name),
            "classes": classes,
            "points": self.sample.describe(),
            "images": None if self.images is None else self.images.images.describe(),
            "notes": list(self.notes),
            "estimates": Design.beside(self.sample.path).is_file(),
        }

    def point(self, number: int) -> dict[str, Any] | None:
        """Return the pixel and the series of a point; None without images there.

        Raises:
            IndexError: If there is no such point.
            InputError: If a file cannot be read.
        """
        point = self.sample.points[number]
        return None if self.images is None else self.images.describe(point)

    def picture(self, number: int, sensor: int, step: int, composite: int) -> np.ndarray:
        """Return a date around a point; see ``PointImages.picture``.

        Raises:
            IndexError: If there is no such point, sensor, date or composite.
            InputError: If a file cannot be read.
        """
        point = self.sample.points[number]
        if self.images is None:
            raise IndexError("No scene was named.")
        return self.images.picture(point, sensor, step, composite)

    def estimate(self) -> dict[str, Any]:
        """Return accuracies and areas as ``agrifm area estimate`` computes them.

        Raises:
            InputError: If a point has no answer yet, no design lies beside the sample, or the answers cannot be used.
        """
        path = self.sample.path
        if not self.sample.is_complete:
            unanswered = len(self.sample.points) - self.sample.answered
            raise InputError(
                path,
                found=f"{counted(unanswered, 'point')} without an answer",
                expected="an answer to every point, before which nothing of the estimate is shown",
                repair="answer them.",
            )
        answers = read_answers(path)
        found = estimates(answers)
        record = estimate_record(found, answers)
        mapped = [entry["hectares"] for entry in record["design"]["classes"]]
        lines = [printable(line) for line in notes(found, answers)]
        return {"total": record["estimates"][0], "mapped": mapped, "notes": lines}

    def __str__(self) -> str:
        parts = [f"{self.sample.path} ({counted(len(self.sample.points), 'point')}, {self.sample.answered} answered)"]
        if self.images is not None:
            parts.append(f"{self.images.images.scene.name}")
        return ", ".join(parts)
