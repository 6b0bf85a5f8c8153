"""What a user names becomes a page: maps and scenes, chips, a run, or a sample to interpret."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from agrifm.errors import InputError
from agrifm.viewer.chips import ChipSet
from agrifm.viewer.interpretation.answer_file import is_sample
from agrifm.viewer.interpretation.interpreted import Interpretation
from agrifm.viewer.runs import BEST, Run
from agrifm.viewer.view import View, is_chip_folder, open_view

Page = View | ChipSet | Run | Interpretation


def open_page(
    paths: Sequence[Path],
    scene: Path | None = None,
    parcels: Path | None = None,
    settings: Sequence[str] = (),
    *,
    labels: Path | None = None,
    train: Path | None = None,
    skip_unreadable: bool = False,
) -> Page:
    """Open what one page shows: maps with a scene, parcels and labels; chips; a run; or a sample.

    Args:
        paths: One or two maps, a scene, or a map and a scene; or one folder of chips; or one folder of a run; or
            one sample of ``agrifm area design``.
        scene: Scene below the maps, or around the points of a sample.
        parcels: Vector file of parcels.
        settings: ``key=value`` of ``scene.yaml``, for the scene.
        labels: GeoPackage of labels to draw into; it may not exist yet.
        train: Folder of trainings from these labels: new, empty, or of earlier ones.
        skip_unreadable: Leave out dates of the scene with a file that does not open.

    Raises:
        InputError: If a path is nothing that can be shown, there are too many, or an option belongs to another page.
    """
    if not paths:
        raise InputError(
            "view", found="no path", expected="a map, a scene, chips, a run or a sample", repair="name at least one."
        )
    samples = [path for path in paths if is_sample(path)]
    if samples:
        options = {"--parcels": parcels, "--labels": labels, "--train": train}
        others = [str(path) for path in paths if path != samples[0]]
        others += [name for name, value in options.items() if value is not None]
        _refuse_options(samples[0], others, "a sample, which is interpreted without anything but images")
        return Interpretation.open(samples[0], scene, settings, skip_unreadable=skip_unreadable)
    first = paths[0]
    is_run = (first / BEST).is_file()
    if len(paths) == 1 and (is_run or is_chip_folder(first)):
        given = {"--scene": scene, "--parcels": parcels, "--labels": labels, "--train": train}
        given["--set"] = tuple(settings) or None
        _refuse_options(first, [name for name, value in given.items() if value is not None])
        return Run.open(first) if is_run else ChipSet.open(first)
    return open_view(paths, scene, parcels, settings, labels=labels, train=train, skip_unreadable=skip_unreadable)


def _refuse_options(path: Path, names: Sequence[str], what: str = "chips or a run") -> None:
    if names:
        raise InputError(
            path,
            found=f"{what}, together with {' and '.join(names)}",
            expected="a map or a scene, to which these belong",
            repair=f"leave out {' and '.join(names)}.",
        )
