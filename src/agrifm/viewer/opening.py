"""What a user names becomes a page: maps and scenes, chips, or a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from agrifm.errors import InputError
from agrifm.viewer.chips import ChipSet
from agrifm.viewer.runs import BEST, Run
from agrifm.viewer.view import View, is_chip_folder, open_view

Page = View | ChipSet | Run


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
    """Open what one page shows: maps with a scene, parcels and labels; the chips of a folder; or a run.

    Args:
        paths: One or two maps, a scene, or a map and a scene; or one folder of chips; or one folder of a run.
        scene: Scene below the maps.
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
            "view", found="no path", expected="a map, a scene, chips or a run", repair="name at least one."
        )
    first = paths[0]
    is_run = (first / BEST).is_file()
    if len(paths) == 1 and (is_run or is_chip_folder(first)):
        given = {"--scene": scene, "--parcels": parcels, "--labels": labels, "--train": train}
        given["--set"] = tuple(settings) or None
        _refuse_options(first, [name for name, value in given.items() if value is not None])
        return Run.open(first) if is_run else ChipSet.open(first)
    return open_view(paths, scene, parcels, settings, labels=labels, train=train, skip_unreadable=skip_unreadable)


def _refuse_options(path: Path, names: Sequence[str]) -> None:
    if names:
        raise InputError(
            path,
            found=f"chips or a run, together with {' and '.join(names)}",
            expected="a map or a scene, to which these options belong",
            repair=f"leave out {' and '.join(names)}.",
        )
