"""What one page shows together, from the paths that a user names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import Any

from agrifm.errors import InputError, counted
from agrifm.maps.provenance import Provenance
from agrifm.opening import open_scene
from agrifm.products.map_rasters import is_class_map
from agrifm.products.reproduce import scene_of_provenance
from agrifm.viewer.class_map import ClassMap
from agrifm.viewer.images import Images, located
from agrifm.viewer.labeling.labels import LabelClass, LabelFile
from agrifm.viewer.labeling.training import SceneSource, Training
from agrifm.viewer.parcels import Parcels
from agrifm.viewer.tiles import TileCache, color_scale

MOST_MAPS = 2
RASTERS = (".tif", ".tiff")
CACHE = 128 * 2**20  # bytes of tiles in memory
SCALE_STEPS = 9  # colors of the scale in the legend


@dataclass(frozen=True)
class View:
    """Maps, images and parcels that one page shows.

    Args:
        maps: At most two maps of classes; the second one is compared with the first.
        images: Scene below the maps.
        parcels: Outlines above them.
        labels: Labels that a person draws.
        training: Training from these labels, if the page offers it.
        notes: What could not be shown and why, for the page.
        cache: Memory for tiles.
    """

    maps: tuple[ClassMap, ...] = ()
    images: Images | None = None
    parcels: Parcels | None = None
    labels: LabelFile | None = None
    training: Training | None = None
    notes: tuple[str, ...] = ()
    cache: TileCache = field(default_factory=lambda: TileCache(CACHE))

    @property
    def title(self) -> str:
        """Names of what is shown."""
        titles = [shown.path.name for shown in self.maps]
        return " and ".join(titles) or (self.images.scene.name if self.images else "")

    def describe(self) -> dict[str, Any]:
        """Return everything that the page needs before it asks for tiles."""
        return {
            "title": self.title,
            "maps": [shown.describe() for shown in self.maps],
            "images": None if self.images is None else self.images.describe(),
            "parcels": None if self.parcels is None else self.parcels.describe(),
            "labels": self.labels is not None,
            "training": self.training is not None,
            "notes": list(self.notes),
            "scale": color_scale(SCALE_STEPS),
        }

    def __str__(self) -> str:
        parts = [f"{shown.path.name} ({counted(len(shown.classes), 'class', 'classes')})" for shown in self.maps]
        if self.images is not None:
            for layer in self.images.scene.layers:
                parts.append(f"{counted(len(layer.days), 'date')} of {layer.sensor.name}")
        if self.parcels is not None:
            parts.append(counted(self.parcels.count, "parcel"))
        if self.labels is not None:
            parts.append(f"{counted(len(self.labels.table), 'label')} in {self.labels.path}")
        return ", ".join(parts)


class Showing:
    """The view of a page; a new map takes the place of the first one, which it is compared with.

    Every map that was opened keeps its number, so that an address means the same map as long as the server runs.

    Args:
        view: What is shown at first.
    """

    def __init__(self, view: View) -> None:
        self.view = view
        self.opened = list(view.maps)
        self.numbers = tuple(range(len(view.maps)))
        self._lock = Lock()

    def add_map(self, path: Path) -> int:
        """Open a map and show it; return its number.

        Raises:
            InputError: If it cannot be shown.
        """
        added = ClassMap.open(path)
        with self._lock:
            number = len(self.opened)
            self.opened.append(added)
            self.numbers = (number, *self.numbers[:1])
            self.view = replace(self.view, maps=(added, *self.view.maps[:1]))
        return number

    def describe(self) -> dict[str, Any]:
        """Return what :meth:`View.describe` does, with the number of each map."""
        with self._lock:
            found = self.view.describe()
            for shown, number in zip(found["maps"], self.numbers, strict=True):
                shown["number"] = number
        return found


def open_view(
    paths: Sequence[Path],
    scene: Path | None = None,
    parcels: Path | None = None,
    settings: Sequence[str] = (),
    *,
    labels: Path | None = None,
    train: Path | None = None,
    skip_unreadable: bool = False,
) -> View:
    """Open maps, a scene and parcels for one page; headers and overviews are read.

    Without ``scene``, the images of a map are those that its provenance names, if all of them are on this machine.

    Args:
        paths: One or two maps, a scene, or a map and a scene.
        scene: Scene below the maps.
        parcels: Vector file of parcels.
        settings: ``key=value`` of ``scene.yaml``, for the scene.
        labels: GeoPackage of labels to draw into; it may not exist yet.
        train: Folder of trainings from these labels.
        skip_unreadable: Leave out dates of the scene with a file that does not open.

    Raises:
        InputError: If a path is nothing that can be shown, or there are too many.
    """
    map_paths = []
    scenes = [] if scene is None else [scene]
    for path in paths:
        if _is_map(path):
            map_paths.append(path)
        else:
            refuse_other_products(path)
            scenes.append(path)
    if len(map_paths) > MOST_MAPS or len(scenes) > 1:
        raise InputError(
            "agrifm view",
            found=f"{counted(len(map_paths), 'map')} and {counted(len(scenes), 'scene')}",
            expected="at most two maps, which are compared, and one scene",
            repair="name fewer of them.",
        )
    maps = tuple(ClassMap.open(path) for path in map_paths)
    images = None
    notes: list[str] = []
    source = None
    if scenes:
        found = open_scene(scenes[0], settings, skip_unreadable=skip_unreadable)
        notes += [f"Left out, because it cannot be read: {href}" for href in found.skipped]
        images = located(found, f"Read from {scenes[0].name}.")
        source = SceneSource(scenes[0], tuple(settings), skip_unreadable)
    elif maps:
        images, note = _images_of(map_paths[0])
        notes += [note] if note else []
        source = None if images is None else SceneSource(Provenance.beside(map_paths[0]))
    outlines = None if parcels is None else Parcels.open(parcels)
    drawn = None if labels is None else _labels(labels, maps, images)
    training = None if train is None else _training(train, drawn, source, notes)
    return View(maps, images, outlines, drawn, training, tuple(notes))


def refuse_other_products(path: Path) -> None:
    """Refuse what is neither a map nor a scene, with a hint at what can be shown of it.

    Raises:
        InputError: If it is a folder of chips, a run, a checkpoint or a raster without classes.
    """
    expected = "a map (OUT.tif of 'agrifm map') or a scene (a folder of images)"
    if not path.exists() and not any(character in str(path) for character in "{*?"):
        raise InputError(path, found="no such file or folder", expected=expected, repair="check the path.")
    if is_chip_folder(path):
        raise InputError(
            path, found="a folder of chips", expected=expected, repair="view the folder without anything else."
        )
    if (path / "best.safetensors").is_file() or path.suffix == ".safetensors":
        raise InputError(
            path,
            found="a run or a checkpoint",
            expected=expected,
            repair="view the folder of a run without anything else, or write a map with 'agrifm map' and view that.",
        )
    if path.is_file() and path.suffix.lower() in RASTERS:
        raise InputError(
            path,
            found="a raster without classes",
            expected=expected,
            repair="give OUT.tif itself, beside which its other layers are found; or the folder of a scene.",
        )


def is_chip_folder(path: Path) -> bool:
    """Whether a folder holds chips and their lists."""
    return (path / "data_lists").is_dir() or (path / "h5_samples").is_dir()


def _labels(path: Path, maps: Sequence[ClassMap], images: Images | None) -> LabelFile | None:
    """Return labels on the grid of the first map, with its classes, or on the grid of the scene."""
    if maps:
        classes = [LabelClass(entry.name, entry.color) for entry in maps[0].classes]
        return LabelFile.open(path, maps[0].grid, classes)
    return None if images is None else LabelFile.open(path, images.scene.grid, [])


def _training(folder: Path, labels: LabelFile | None, source: SceneSource | None, notes: Sequence[str]) -> Training:
    """Return the training of a page that has labels and images.

    Raises:
        InputError: If it lacks one of them, or the folder cannot be used.
    """
    if labels is None:
        raise InputError(
            f"--train {folder}", found="no labels", expected="labels to learn from", repair="add --labels FILE.gpkg."
        )
    if source is None:
        raise InputError(
            f"--train {folder}",
            found=f"no images. {' '.join(notes)}",
            expected="a scene to map",
            repair="name it with --scene FOLDER.",
        )
    return Training.open(folder, labels, source)


def _is_map(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in RASTERS and is_class_map(path)


def _images_of(path: Path) -> tuple[Images | None, str]:
    """Return the images that the provenance of a map names, or None and the reason why they are not shown."""
    file = Provenance.beside(path)
    if not file.is_file():
        return None, "Images are not shown, because no provenance lies beside the map; name them with --scene FOLDER."
    try:
        return located(scene_of_provenance(file), f"Images named in {file.name}."), ""
    except InputError as error:
        return None, f"Images are not shown; name them with --scene FOLDER. {error.sentence}"
